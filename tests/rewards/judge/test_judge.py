import asyncio
import copy
import pickle
import subprocess
import sys

import pytest
from chat_server import answer, serving

from rewards import ChatEndpoint, LLMJudge, RewardError, Rubric, Sample, Scorer
from rewards.errors import Failure


def judge(server, *, rubric=None, **settings):
    settings = {"model": "m", "backoff_seconds": 0.01, "timeout_seconds": 5.0, **settings}
    return LLMJudge(ChatEndpoint(base_url=server.url, **settings), rubric)


def by_content(number, body):
    """A judge that likes what is told to be good."""
    text = body["messages"][-1]["content"]
    if "broken" in text:
        return 500, "out of order"
    if "mumble" in text:
        return 200, answer("Hm, hard to say.")
    return 200, answer("Fine.\nScore: 8" if "good" in text else "Bad.\nScore: 2", tokens_in=100, tokens_out=10)


def samples(*completions, **row):
    return [Sample("What?", completion, row=row) for completion in completions]


def test_completions_are_scored_by_what_the_judge_says_with_counts_as_metrics():
    with serving(by_content) as server, Scorer({"judge": judge(server, price_in=1.0, price_out=2.0)}) as scorer:
        good, bad = scorer.score(samples("good", "poor"))
    assert (good.value, bad.value) == (0.8, 0.2)
    assert good.reason == "judge: Fine.\nScore: 8"
    assert good.parts["judge"].metrics == {
        "requests": 1.0,
        "retries": 0.0,
        "tokens_in": 100.0,
        "tokens_out": 10.0,
        "cost": pytest.approx(120e-6),
        "failed_share": 0.0,
    }


def test_a_failing_endpoint_and_a_missing_verdict_are_the_graders_fault():
    with serving(by_content) as server:
        scorer = Scorer({"judge": judge(server, retries=1)}, max_invalid_share=1.0)
        verdicts = scorer.score(samples("good", "broken", "mumble", "poor"))
    assert [(verdict.value, verdict.valid) for verdict in verdicts] == [
        (0.8, True),
        (0.0, False),
        (0.0, False),
        (0.2, True),
    ]
    assert "HTTP 500: 'out of order' (2 requests), on completion 'broken'" in verdicts[1].reason
    assert "holds no verdict: there is no 'Score:'; it is 'Hm, hard to say.'" in verdicts[2].reason
    assert verdicts[0].parts["judge"].metrics["failed_share"] == 0.5
    assert scorer.counters()["errors"] == 2


def test_the_error_policy_of_the_run_decides_what_a_failure_means():
    with serving(by_content) as server:
        assert Scorer({"judge": judge(server, retries=0)}, on_error=0.5).score(samples("broken"))[0].value == 0.5
        with pytest.raises(RewardError, match=r"reward\.judge failed: HTTP 500"):
            Scorer({"judge": judge(server, retries=0)}, on_error="raise").score(samples("broken"))


def test_everything_is_counted():
    with serving(by_content) as server:
        reward = judge(server, retries=2, price_out=1e6)
        asyncio.run(reward.score_batch(samples("good", "", "broken", "mumble")))
        asyncio.run(reward.score_batch(samples("poor")))
    assert reward.counters() == {
        "samples": 5.0,
        "unasked": 1.0,
        "failures": 1.0,
        "unreadable": 1.0,
        "requests": 6.0,
        "retries": 2.0,
        "tokens_in": 210.0,  # 100 + 10 (the mumble) + 100
        "tokens_out": 25.0,  # 10 + 5 + 10
        "cost": 25.0,
    }
    assert len(server.requests) == 6


def test_an_empty_or_overlong_completion_is_not_shown_to_the_judge():
    rubric = Rubric(max_chars=10, low=-1.0)
    with serving(by_content) as server:
        scores = asyncio.run(judge(server, rubric=rubric).score_batch(samples(" ", "x" * 11)))
    assert [(score.value, score.info["reason"]) for score in scores] == [
        (-1.0, "the completion is empty"),
        (-1.0, "longer than 10 characters"),
    ]
    assert server.requests == []


def test_the_templates_columns_are_required_of_the_task():
    rubric = Rubric(template="{completion} {answer}")
    with serving(by_content) as server:
        scorer = Scorer({"judge": judge(server, rubric=rubric)})
        with pytest.raises(ValueError, match="asks for column 'answer', which the task does not provide"):
            scorer.require(["question"])
        scorer.require(["answer"])
        with_key, without = scorer.score([*samples("good", answer="forty"), *samples("good")])
    assert (with_key.value, without.valid) == (0.8, False)
    assert "the row has no column 'answer', it has []" in without.reason
    assert "forty" in server.requests[0]["body"]["messages"][-1]["content"]


def test_it_can_be_called_with_names():
    with serving(by_content) as server:
        reward = judge(server, retries=0)
        assert asyncio.run(reward(prompt="What?", completion="good")).value == 0.8
        with pytest.raises(RuntimeError, match="HTTP 500"):
            asyncio.run(reward(prompt="What?", completion="broken"))


def test_a_batch_that_overruns_the_parts_limit_is_told():
    with serving(lambda number, body: (200, answer("Score: 1"), {}, 5.0)) as server:
        part = {"fn": judge(server, timeout_seconds=30.0), "timeout_seconds": 0.3}
        verdict = Scorer({"judge": part}).score(samples("good"))[0]
    assert not verdict.valid
    assert "no answer within 0.3 s" in verdict.reason


def test_it_can_be_copied_and_sent():
    with serving(by_content) as server:
        reward = judge(server)
        asyncio.run(reward.score_batch(samples("good")))
        for other in (copy.deepcopy(reward), pickle.loads(pickle.dumps(reward))):
            assert asyncio.run(other.score_batch(samples("good")))[0].value == 0.8


class Silent:
    """A backend of the user's that has nothing to say."""

    async def ask(self, conversations):
        from rewards.judge.reply import Reply

        return [Reply(failure=Failure("no judge today")) for _ in conversations]


def test_a_backend_of_ones_own():
    assert asyncio.run(LLMJudge(Silent()).score_batch(samples("x")))[0].reason == "no judge today"
    assert asyncio.run(LLMJudge(Silent()).score_batch([])) == []
    with pytest.raises(ValueError, match="backend must have a coroutine ask"):
        LLMJudge(object())


def test_an_endpoint_needs_neither_torch_nor_an_http_package():
    script = (
        "import sys; from rewards import LLMJudge, ChatEndpoint; LLMJudge(ChatEndpoint(model='m'))\n"
        "print({'torch', 'transformers', 'httpx', 'httpx2', 'requests', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
