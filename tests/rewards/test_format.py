import pickle
import threading
import time

import pytest

from rewards import RegexReward, Sample, Scorer, TagFormat


def form(text, **settings):
    return TagFormat(**settings)(completion=text)


def test_a_well_formed_completion_scores_one():
    assert form("<think>a < b & <b></think>\n <answer>\u00e97\x00\r\n</answer>\n").value == 1.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "<think> is missing"),
        ("<think>a</think>", "<answer> is missing"),
        ("<think>a</think><answer>7", "<answer> is not closed"),
        ("<think>a</think><answer>7</answer><answer>8</answer>", "<answer> comes more than once"),
        ("<answer>7</answer><think>a</think>", "tags are not in the order think, answer"),
        ("well <think>a</think><answer>7</answer>", "there is text outside the tags"),
        ("<think>a</think> so <answer>7</answer>", "there is text outside the tags"),
        ("<think><answer>7</answer></think>", "<answer> opens inside <think>"),
        ("<think><think>a</think><answer>7</answer>", "<think> opens inside <think>"),
        ("</think><think>a</think><answer>7</answer>", "</think> closes what is not open"),
    ],
)
def test_each_fault_scores_zero_and_is_named(text, reason):
    score = form(text)
    assert (score.value, score.info["reason"]) == (0.0, reason)


def test_each_rule_can_be_switched_off():
    assert form("<answer>7</answer><think>a</think>", in_order=False).value == 1.0
    assert form("so <think>a</think><answer>7</answer>", nothing_outside=False).value == 1.0
    assert form("<think>a</think><think>b</think><answer>7</answer>", exactly_once=False).value == 1.0


def test_tag_soup_of_a_megabyte_is_read_in_linear_time():
    soups = ["<think>", "</think>", "<think></think>", "<", "<think", "<think></think><answer></answer>", "<<>>/"]
    started = time.perf_counter()
    for soup in soups:
        for exactly_once in (True, False):
            form(soup * (1_000_000 // len(soup)), exactly_once=exactly_once)
    assert time.perf_counter() - started < 10.0


@pytest.mark.parametrize("tags", [[], ["a", "a"], ["<a>"], [""]])
def test_wrong_tags_are_refused(tags):
    with pytest.raises(ValueError, match="tags must be different words"):
        TagFormat(tags=tags)


@pytest.mark.parametrize(
    ("settings", "text", "value"),
    [
        ({"pattern": r"\d+"}, "a 12", 1.0),
        ({"pattern": r"\d+", "mode": "fullmatch"}, "a 12", 0.0),
        ({"pattern": r"\d+", "mode": "count"}, "1 22 333", 3.0),
        ({"pattern": "^yes$", "flags": "im"}, "no\nYES", 1.0),
        ({"pattern": "a.b", "flags": "s"}, "a\nb", 1.0),
        ({"pattern": "a", "max_chars": 3}, "aaaa", 0.0),
    ],
)
def test_patterns_match_as_configured(settings, text, value):
    assert RegexReward(**settings)(completion=text).value == value


HOSTILE = [
    (r"(a+)+$", "a" * 28 + "!", "search"),
    (r"(a|a)*b", "a" * 40, "search"),
    (r"^(\w+\s?)*$", "word " * 20 + "!", "search"),
    (r"(.*?,){15}P", "1," * 26, "search"),
    (r"^<think>\n?.*?\n?</think>\n?<answer>\n?.*?\n?</answer>$", "<think></think><answer>" * 1200, "search"),
    (r"(?s)<step>(.*?)</step>", "<step>" * 5000, "count"),
    (r"\\boxed\{(?:[^{}]+|\{[^{}]*\})*\}", r"\boxed{" + "a" * 30, "search"),
    (r"^<think>(?!.*<think>)(.*?)</think>.*$", "<think>" + "a" * 30000, "search"),
]


@pytest.mark.parametrize("caller", ["main", "thread", "inline", "process"])
@pytest.mark.parametrize(("pattern", "text", "mode"), HOSTILE)
def test_no_pattern_hangs_anybody(pattern, text, mode, caller):
    reward = RegexReward(pattern, mode=mode, timeout_seconds=0.2)
    reward(completion="")  # the worker has started
    started = time.perf_counter()
    if caller in ("inline", "process"):
        with Scorer({"pattern": {"fn": reward, "execution": caller}}) as scorer:
            verdict = scorer.score([Sample("", text)])[0]
        found = (verdict.value, verdict.valid)
    elif caller == "thread":
        scores = []
        thread = threading.Thread(target=lambda: scores.append(reward(completion=text)))
        thread.start()
        thread.join(20)
        found = (scores[0].value, True)
    else:
        found = (reward(completion=text).value, True)
    assert found == (0.0, True)
    assert time.perf_counter() - started < 5.0


def test_a_direct_call_that_the_engine_does_not_end_is_killed(monkeypatch):
    """The engine's own limit is far away: only the process can be ended, and the next call gets another."""
    monkeypatch.setattr("rewards.format.KILL_SECONDS", -599.7)
    reward = RegexReward(r"(.*?,){15}P", timeout_seconds=600.0)
    started = time.perf_counter()
    assert reward(completion="1," * 26).info["reason"] == "timed out"
    assert reward(completion="1," * 15 + "P").value == 1.0
    assert time.perf_counter() - started < 10.0


def test_other_threads_go_on_while_a_pattern_is_tried():
    reward = RegexReward(r"(.*?,){15}P", timeout_seconds=1.0)
    reward(completion="")
    thread = threading.Thread(target=reward, kwargs={"completion": "1," * 26})
    thread.start()
    ticks = 0
    while thread.is_alive():
        time.sleep(0.01)
        ticks += 1
    assert ticks > 20  # the interpreter was never held


def test_a_scorer_gives_a_pattern_that_takes_too_long_a_zero_and_goes_on():
    reward = RegexReward(r"(.*?,){15}P", timeout_seconds=0.2)
    with Scorer({"pattern": reward}, timeout_seconds=5.0) as scorer:
        verdicts = scorer.score([Sample("", "1," * 26), Sample("", "1," * 15 + "P")])
    assert [(verdict.value, verdict.valid) for verdict in verdicts] == [(0.0, True), (1.0, True)]
    assert verdicts[0].reason == "pattern: timed out"


def test_an_overrun_that_only_the_worker_can_end_is_a_zero_too():
    reward = RegexReward(r"(.*?,){15}P", timeout_seconds=600.0)
    with Scorer({"pattern": {"fn": reward, "timeout_seconds": 0.3}}) as scorer:
        verdict = scorer.score([Sample("", "1," * 26)])[0]
    assert (verdict.value, verdict.valid, verdict.reason) == (0.0, True, "pattern: timed out")


def test_a_pattern_can_be_pickled():
    assert pickle.loads(pickle.dumps(RegexReward("a+")))(completion="aa").value == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "("}, r"pattern must be a regular expression, got '\('"),
        ({"pattern": "a", "flags": "q"}, "flags must be letters of imsx, got 'q'"),
        ({"pattern": "a", "mode": "match"}, "mode must be one of search, fullmatch, count, got 'match'"),
        ({"pattern": "a", "timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"),
        ({"pattern": "a", "max_chars": 0}, "max_chars must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RegexReward(**settings)
