import bad_rewards
import pytest

from rewards import Sample, Scorer
from rewards.errors import Failure
from rewards.math import MathAnswer
from rewards.math.answer import MEMORY_MB
from rewards.workers import Pool

SUM = Sample("", r"\boxed{x+1}", row={"answer": "1+x"})


@pytest.fixture
def judged_by(monkeypatch):
    """Another judge in the place of ours, in a worker of its own under the same limits."""
    pools = []

    def use(judge, *, timeout_seconds=10.0):
        pools.append(Pool({"math": judge}, memory_mb=MEMORY_MB))
        monkeypatch.setattr("rewards.math.answer._pool", lambda backend: pools[-1])
        return Scorer({"correct": MathAnswer(timeout_seconds=timeout_seconds)})

    yield use
    for pool in pools:
        pool.close()


def test_a_comparison_that_outgrows_its_memory_fails_alone():
    pool = Pool({"make": bytearray}, memory_mb=MEMORY_MB)
    too_large, small = pool.run("make", [MEMORY_MB << 20, 3], timeout_seconds=20.0)
    pool.close()
    assert isinstance(too_large, Failure)
    assert (too_large.reason, too_large.out_of_memory) == ("MemoryError", True)
    assert small == bytearray(3)


@pytest.mark.parametrize(
    ("judge", "seconds", "reason"),
    [(bad_rewards.takes_all_memory, 10.0, "correct: out of memory"), (bad_rewards.hangs, 0.3, "correct: timed out")],
)
def test_what_a_comparison_overruns_is_the_doing_of_the_answers_text(judged_by, judge, seconds, reason):
    (verdict,) = judged_by(judge, timeout_seconds=seconds).score([SUM])
    assert (verdict.value, verdict.valid, verdict.reason) == (0.0, True, reason)


def test_a_comparison_that_the_machine_kills_is_not_charged_to_the_policy(judged_by):
    scorer = judged_by(bad_rewards.is_killed)
    (verdict,) = scorer.score([SUM])
    assert (verdict.value, verdict.valid) == (0.0, False)
    assert "the comparison failed: its worker process died (SIGKILL)" in verdict.reason
    assert scorer.counters()["errors"] == 1


def test_a_judge_that_breaks_is_not_charged_to_the_policy_either(judged_by):
    (verdict,) = judged_by(bad_rewards.raises).score([SUM])
    assert (verdict.valid, "the judge is away" in verdict.reason) == (False, True)
