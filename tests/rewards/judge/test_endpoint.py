import asyncio
import json
import pickle
import socket
import threading
import time
from email.utils import formatdate

import pytest
from chat_server import answer, serving

from rewards import ChatEndpoint

QUESTION = [{"role": "user", "content": "How good?"}]


def ask(server, *, times=1, **settings):
    settings = {"model": "judge-1", "backoff_seconds": 0.01, "timeout_seconds": 5.0, **settings}
    return asyncio.run(ChatEndpoint(base_url=server.url, **settings).ask([QUESTION] * times))


def test_a_question_in_openais_shape_and_its_answer_with_tokens_and_cost():
    with serving(lambda number, body: (200, answer("Score: 7", tokens_in=1000, tokens_out=20))) as server:
        (reply,) = ask(server, temperature=0.5, max_tokens=99, price_in=2.0, price_out=10.0)
    assert (reply.text, reply.failure, reply.requests) == ("Score: 7", None, 1)
    assert (reply.tokens_in, reply.tokens_out) == (1000, 20)
    assert reply.cost == pytest.approx(0.0022)  # 1000 x 2 + 20 x 10 millionths
    assert server.requests[0]["path"] == "/v1/chat/completions"
    assert server.requests[0]["body"] == {
        "model": "judge-1",
        "messages": QUESTION,
        "temperature": 0.5,
        "max_tokens": 99,
    }
    assert "Authorization" not in server.requests[0]["headers"]


def test_more_fields_can_be_sent_and_others_left_out():
    with serving(lambda number, body: (200, answer("x"))) as server:
        ask(server, extra_body={"max_tokens": None, "max_completion_tokens": 7, "seed": 0})
    sent = server.requests[0]["body"]
    assert ("max_tokens" in sent, sent["max_completion_tokens"], sent["seed"]) == (False, 7, 0)


def test_the_key_comes_from_the_environment_and_is_neither_stored_nor_told(monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-secret-123")

    def script(number, body):
        return (200, answer("x")) if number == 0 else (401, "wrong key sk-secret-123")

    with serving(script) as server:
        endpoint = ChatEndpoint(model="m", base_url=server.url, api_key_env="MY_JUDGE_KEY")
        asyncio.run(endpoint.ask([QUESTION]))
        (refused,) = asyncio.run(endpoint.ask([QUESTION]))
    assert server.requests[0]["headers"]["Authorization"] == "Bearer sk-secret-123"
    assert refused.failure.reason == "HTTP 401: 'wrong key ***'"
    assert b"sk-secret" not in pickle.dumps(endpoint)
    assert "sk-secret" not in repr(endpoint) + repr(vars(endpoint))


def test_a_process_without_the_key_asks_nobody(monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-secret-123")
    with serving(lambda number, body: (200, answer("x"))) as server:
        endpoint = ChatEndpoint(model="m", base_url=server.url, api_key_env="MY_JUDGE_KEY")
        monkeypatch.delenv("MY_JUDGE_KEY")
        (reply,) = asyncio.run(endpoint.ask([QUESTION]))
    assert reply.failure.reason == "api_key_env MY_JUDGE_KEY is not set in the process that asks"
    assert server.requests == []


def test_too_many_requests_are_repeated_after_the_time_that_the_server_asks_for():
    def script(number, body):
        return (429, "slow down", {"Retry-After": "0.5"}) if number == 0 else (200, answer("Score: 3"))

    with serving(script) as server:
        started = time.monotonic()
        (reply,) = ask(server)
    assert (reply.text, reply.requests) == ("Score: 3", 2)
    assert time.monotonic() - started >= 0.5


def test_the_time_to_wait_may_be_a_date():
    soon = formatdate(time.time() + 2, usegmt=True)

    def script(number, body):
        return (503, "busy", {"Retry-After": soon}) if number == 0 else (200, answer("x"))

    with serving(script) as server:
        started = time.monotonic()
        (reply,) = ask(server)
    assert reply.text == "x"
    assert time.monotonic() - started >= 0.5  # dates count in seconds: one to two are left


@pytest.mark.parametrize("asked", ["soon", "-3", "nan", ""])
def test_a_retry_after_without_sense_is_the_usual_wait(asked):
    def script(number, body):
        return (429, "", {"Retry-After": asked}) if number == 0 else (200, answer("x"))

    with serving(script) as server:
        assert ask(server)[0].text == "x"


def test_a_wait_longer_than_the_question_may_take_ends_it_at_once():
    with serving(lambda number, body: (429, "tomorrow", {"Retry-After": "86400"})) as server:
        started = time.monotonic()
        (reply,) = ask(server, give_up_seconds=3.0)
    assert reply.failure.reason == "HTTP 429: 'tomorrow'"
    assert reply.requests == 1
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("status", [500, 502, 503])
def test_errors_of_the_server_are_repeated_and_then_told(status):
    with serving(lambda number, body: (status, "out of order")) as server:
        (reply,) = ask(server, retries=2)
    assert reply.failure.reason == f"HTTP {status}: 'out of order' (3 requests)"
    assert (len(server.requests), reply.requests, reply.failure.timed_out) == (3, 3, False)


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_what_will_not_get_better_is_not_repeated(status):
    with serving(lambda number, body: (status, "no", {"Location": "http://127.0.0.1:1/"})) as server:
        (reply,) = ask(server)
    assert (reply.failure.reason, len(server.requests)) == (f"HTTP {status}: 'no'", 1)


def test_a_request_that_takes_too_long_is_given_up_and_repeated():
    def script(number, body):
        return (200, answer("x"), {}, 5.0 if number == 0 else 0.0)

    with serving(script) as server:
        started = time.monotonic()
        (reply,) = ask(server, timeout_seconds=0.3)
    assert (reply.text, reply.requests) == ("x", 2)
    assert time.monotonic() - started < 3.0


def test_a_question_ends_when_its_time_is_over():
    with serving(lambda number, body: (200, answer("x"), {}, 5.0)) as server:
        started = time.monotonic()
        (reply,) = ask(server, timeout_seconds=0.3, give_up_seconds=1.0, retries=100)
    assert reply.failure.timed_out
    assert "no answer within" in reply.failure.reason
    assert 2 <= reply.requests <= 4
    assert time.monotonic() - started < 3.0


def test_a_server_that_sends_byte_by_byte_is_given_up_too():
    """Each byte comes in time, the answer never does."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(0.05):
                    connection.sendall(b" ")
            except OSError:
                pass

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    endpoint = ChatEndpoint(
        model="m", base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_seconds=0.5, retries=0
    )
    started = time.monotonic()
    (reply,) = asyncio.run(endpoint.ask([QUESTION]))
    assert reply.failure.timed_out
    assert time.monotonic() - started < 2.0
    thread.join(5)  # our end was closed, which the server notices
    assert not thread.is_alive()
    stop.set()
    listener.close()


def test_nobody_there_is_a_failure_after_the_retries():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (reply,) = asyncio.run(
        ChatEndpoint(model="m", base_url=f"http://127.0.0.1:{port}/v1", retries=1, backoff_seconds=0).ask([QUESTION])
    )
    assert reply.failure.reason.startswith("ConnectionRefusedError")
    assert reply.requests == 2


@pytest.mark.parametrize(
    "body",
    [
        "<html>gateway</html>",
        "",
        "[]",
        "{}",
        '{"choices": []}',
        '{"choices": [{"message": {}}]}',
        '{"choices": [{"message": {"content": null}}]}',
        '{"choices": [{"message": {"content": 7}}]}',
        "[" * 100_000,
    ],
)
def test_a_malformed_answer_is_a_failure_with_its_first_characters(body):
    with serving(lambda number, _: (200, body)) as server:
        (reply,) = ask(server)
    assert reply.failure.reason.startswith("a malformed answer (")
    assert reply.failure.reason.endswith(f"it starts {body[:80]!r}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "many"}, {"prompt_tokens": -4}, {"prompt_tokens": True}])
def test_an_answer_without_sensible_token_counts_is_an_answer(usage):
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage})
    with serving(lambda number, _: (200, body)) as server:
        (reply,) = ask(server, price_in=1.0)
    assert (reply.text, reply.tokens_in, reply.tokens_out, reply.cost) == ("x", 0, 0, 0.0)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_are_under_way_than_the_limit_says(limit):
    with serving(lambda number, body: (200, answer("x"), {}, 0.05)) as server:
        assert len(ask(server, times=12, concurrency=limit)) == 12
        assert server.most_busy == limit


def test_the_limit_holds_for_all_threads_together():
    with serving(lambda number, body: (200, answer("x"), {}, 0.05)) as server:
        endpoint = ChatEndpoint(model="m", base_url=server.url, concurrency=2)
        threads = [threading.Thread(target=lambda: asyncio.run(endpoint.ask([QUESTION] * 4))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (len(server.requests), server.most_busy) == (12, 2)


def test_answers_keep_the_order_of_the_questions():
    def script(number, body):
        return (200, answer(body["messages"][0]["content"]), {}, 0.02 * (number % 3))

    conversations = [[{"role": "user", "content": str(number)}] for number in range(9)]
    with serving(script) as server:
        replies = asyncio.run(ChatEndpoint(model="m", base_url=server.url).ask(conversations))
    assert [reply.text for reply in replies] == [str(number) for number in range(9)]


def test_it_can_be_pickled_after_use():
    with serving(lambda number, body: (200, answer("x"))) as server:
        endpoint = ChatEndpoint(model="m", base_url=server.url)
        asyncio.run(endpoint.ask([QUESTION]))
        (reply,) = asyncio.run(pickle.loads(pickle.dumps(endpoint)).ask([QUESTION]))
    assert reply.text == "x"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "model must be the name of a model"),
        ({"base_url": "localhost:8000"}, "base_url must be http"),
        ({"base_url": "ftp://host"}, "base_url must be http"),
        ({"base_url": "http://host:99999/v1"}, "base_url must be http.*Port out of range"),
        ({"base_url": "http://me:secret@host/v1"}, "without user or key, got host 'host'"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "api_key_env must name .* NOT_SET_ANYWHERE is not set"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0 and finite, got 0"),
        ({"give_up_seconds": float("inf")}, "give_up_seconds must be above 0 and finite, got inf"),
        ({"retries": -1}, "retries must be at least 0 and finite, got -1"),
        ({"price_in": float("nan")}, "price_in must be at least 0 and finite, got nan"),
    ],
)
def test_a_wrong_setting_is_named_and_a_secret_is_not_repeated(settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        ChatEndpoint(**{"model": "m", **settings})
    assert "secret" not in str(raised.value)
