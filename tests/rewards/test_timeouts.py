"""What overran its time is counted, whoever noticed it and wherever it ran."""

import pytest

from rewards import Sample, Scorer
from rewards.code import UnitTests
from rewards.format import RegexReward
from rewards.json_format import JsonFormat
from rewards.math import MathAnswer, PartialCredit

SLOW_SINE = r"\boxed{\sin(e^{1000000000x})}"
SLOW_PATTERN = r"(.*?,){15}P"
ANSWER, TESTS = {"answer": "x+1"}, {"tests": "assert f() == 3", "entry_point": "f"}


def told(part, *samples):
    with Scorer({"mine": part}) as scorer:
        verdicts = scorer.score(samples)
        assert [verdict.valid for verdict in verdicts] == [True] * len(samples)
        return scorer.take_metrics()


@pytest.mark.parametrize(
    ("part", "samples", "timeouts"),
    [
        (
            MathAnswer(timeout_seconds=1.5),
            [Sample("", SLOW_SINE, row=ANSWER), Sample("", r"\boxed{1+x}", row=ANSWER), Sample("", "", row=ANSWER)],
            1,
        ),
        (
            PartialCredit(value=MathAnswer(timeout_seconds=1.5)),
            [Sample("", SLOW_SINE, row=ANSWER), Sample("", r"\boxed{1+x}", row=ANSWER)],
            1,
        ),
        (
            UnitTests(timeout_seconds=1.5),
            [Sample("", "while True: pass", row=TESTS), Sample("", "def f(): return 3", row=TESTS)],
            1,
        ),
        (
            UnitTests(timeout_seconds=1.5),
            [Sample("", "while True: pass", row={"tests": [{"input": "", "output": "3"}] * 2})],
            1,
        ),
        (RegexReward(SLOW_PATTERN, timeout_seconds=0.2), [Sample("", "1," * 26), Sample("", "a")], 1),
        (
            {"fn": RegexReward(SLOW_PATTERN, timeout_seconds=600.0), "timeout_seconds": 1.0},
            [Sample("", "1," * 26), Sample("", "a")],
            1,
        ),
        (
            {
                "fn": JsonFormat(schema={"pattern": "^(a+)+$"}, timeout_seconds=3.0),
                "execution": "inline",
            },
            [Sample("", '"' + "a" * 40 + '!"'), Sample("", '"aa"')],
            1,
        ),
    ],
    ids=["math", "partial credit", "functions", "scripts", "pattern", "pattern killed", "schema"],
)
def test_an_overrun_that_scores_zero_is_counted_as_one(part, samples, timeouts):
    assert told(part, *samples)["mine/timeouts"] == timeouts


def test_a_batch_that_came_back_in_time_has_none():
    found = told(MathAnswer(), Sample("", r"\boxed{2}", row=ANSWER), Sample("", r"\boxed{x+1}", row=ANSWER))
    assert (found["mine/calls"], found["mine/timeouts"]) == (1, 0)
