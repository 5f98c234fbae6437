import asyncio
import copy
import pickle
import subprocess
import sys
import threading
import time

import pytest
import user_rewards

from rewards import RewardError, Sample, Scorer
from rewards.errors import Cancelled
from rewards.scoring import Batch


def samples(*completions, **row):
    return [Sample("What?", completion, row=row) for completion in completions]


def inline(fn, **settings):
    return {"mine": {"fn": fn, "execution": "inline", **settings}}


def values(scorer, *completions, **row):
    with scorer:
        return [verdict.value for verdict in scorer.score(samples(*completions, **row))]


def test_a_function_takes_what_it_needs_by_name():
    assert values(Scorer(user_rewards.brevity), "12345", answer="x") == [0.5]


def test_keyword_arguments_receive_the_columns_of_the_row_and_nothing_else():
    verdict = Scorer(inline(user_rewards.columns_seen)).score(samples("x", answer=1, tests="t"))[0]
    assert verdict.reason == "mine: answer,tests"


def test_a_setting_bound_by_the_user_wins_over_a_column_of_the_same_name():
    reward = {"_target_": "user_rewards.brevity", "limit": 4}
    assert Scorer(inline(reward)).score(samples("ab", limit=100))[0].value == 0.5


def test_a_missing_column_is_named_before_anything_is_scored():
    scorer = Scorer("rewards.math.MathAnswer")
    with pytest.raises(ValueError, match=r"reward.math_answer asks for column 'answer'.*it has \['tests'\]"):
        scorer.require(["tests"])
    scorer.require(["answer"])


def test_optional_and_collected_names_require_nothing():
    Scorer(user_rewards.brevity).require([])


def test_bools_and_numpy_numbers_are_scores():
    assert values(Scorer(inline(user_rewards.Numpy())), "x") == [0.5]
    assert values(Scorer(inline(user_rewards.obedient)), "true", "") == [1.0, 1.0]


@pytest.mark.parametrize("completion", ["none", "nan", "inf", "text", "raise"])
@pytest.mark.parametrize("execution", ["inline", "process"])
def test_a_graders_error_invalidates_its_own_sample_only(completion, execution):
    with Scorer({"mine": {"fn": user_rewards.obedient, "execution": execution}}) as scorer:
        before, broken, after = scorer.score(samples("a", completion, "b"))
    assert (before.value, before.valid, after.value, after.valid) == (1.0, True, 1.0, True)
    assert (broken.value, broken.valid) == (0.0, False)
    assert broken.reason.startswith("reward.mine failed: ")
    assert repr(completion) in broken.reason
    assert len(broken.reason.splitlines()) <= 6
    assert scorer.counters()["errors"] == scorer.counters()["invalid"] == 1


def test_on_error_raise_raises_with_the_part_and_the_cause():
    with pytest.raises(RewardError, match=r"reward\.mine failed: RuntimeError: the judge is away"):
        Scorer(inline(user_rewards.obedient), on_error="raise").score(samples("raise"))


def test_on_error_with_a_number_gives_that_number_to_the_part():
    verdict = Scorer(inline(user_rewards.obedient, weight=2.0), on_error=-0.5).score(samples("raise"))[0]
    assert (verdict.value, verdict.valid) == (-1.0, True)
    assert "the judge is away" in verdict.reason


def test_the_run_ends_when_too_many_samples_are_invalid():
    scorer = Scorer(inline(user_rewards.obedient), max_invalid_share=0.2)
    scorer.score(samples(*["raise"] * 12, *["a"] * 37))  # 12 of 49: too few samples to judge
    with pytest.raises(RewardError, match=r"26% of the last 50 samples.*max_invalid_share is 20%.*judge is away"):
        scorer.score(samples("raise"))


def test_a_share_of_invalid_samples_below_the_limit_is_only_counted():
    scorer = Scorer(inline(user_rewards.obedient), max_invalid_share=0.2)
    scorer.score(samples(*["raise"] * 20, *["a"] * 80))
    assert scorer.counters()["invalid"] == 20


def test_a_hanging_call_loses_only_itself():
    with Scorer({"mine": {"fn": user_rewards.obedient, "timeout_seconds": 0.3}}) as scorer:
        verdicts = scorer.score(samples("a", "hang", "b", "hang", "c"))
        assert [verdict.valid for verdict in verdicts] == [True, False, True, False, True]
        assert "no answer within 0.3 s" in verdicts[1].reason
        assert scorer.counters()["timeouts"] == 2


def test_a_dying_worker_loses_only_its_call():
    with Scorer(user_rewards.obedient) as scorer:
        verdicts = scorer.score(samples("a", "die", "b", "exit", "c"))
        assert [verdict.valid for verdict in verdicts] == [True, False, True, False, True]
        assert "worker process died (exit status 3)" in verdicts[1].reason
        assert "SystemExit" in verdicts[3].reason


def test_several_workers_keep_the_order():
    with Scorer(user_rewards.length, workers=2) as scorer:
        assert [v.value for v in scorer.score(samples(*("x" * n for n in range(50))))] == list(range(50))


def test_what_scoring_costs_is_told_per_part_and_since_the_last_time():
    """Of 1, .2 and .2 seconds, one behind the other in one worker."""
    naps = {"fn": user_rewards.nap, "execution": "process"}
    with Scorer({"naps": naps, **inline(user_rewards.obedient)}, workers=1) as scorer:
        scorer.score(samples("0"))
        scorer.take_metrics()
        scorer.score(samples("1", "0.2", "0.2"))
        told = scorer.take_metrics()
        assert scorer.take_metrics() == {}
    assert [told[f"naps/{name}"] for name in ("calls", "errors", "timeouts", "cached")] == [3, 0, 0, 0]
    assert told["mine/calls"] == 3
    assert told["naps/seconds_p50"] == pytest.approx(0.2, abs=0.15)
    assert told["naps/seconds_p100"] == told["naps/seconds_p95"] == pytest.approx(1.0, abs=0.3)
    assert told["naps/queue_seconds_p95"] == pytest.approx(1.2, abs=0.5)


def test_errors_and_timeouts_are_told_per_part():
    with Scorer({"mine": {"fn": user_rewards.obedient, "timeout_seconds": 0.3}}) as scorer:
        scorer.score(samples("a", "hang", "raise", "b"))
        told = scorer.take_metrics()
    assert (told["mine/calls"], told["mine/errors"], told["mine/timeouts"]) == (4, 2, 1)
    assert told["mine/seconds_p100"] == pytest.approx(0.3, abs=0.1)


def test_what_a_reward_prints_does_not_reach_stdout(capfd):
    assert values(Scorer(user_rewards.length), "abc") == [3]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("execution", ["inline", "process"])
def test_async_functions_run_together_and_are_cancelled_at_their_limit(execution):
    part = {"fn": user_rewards.patient, "execution": execution, "timeout_seconds": 0.5}
    with Scorer({"mine": part}) as scorer:
        scorer.score(samples("warm"))
        started = time.monotonic()
        verdicts = scorer.score(samples(*["a"] * 200, "hang", *["b"] * 200))
        assert time.monotonic() - started < 3.0
    assert [index for index, verdict in enumerate(verdicts) if not verdict.valid] == [200]


def test_a_coroutine_that_blocks_the_others_is_found_and_killed():
    with Scorer({"mine": {"fn": user_rewards.patient, "timeout_seconds": 0.3}}) as scorer:
        verdicts = scorer.score(samples("a", "block", "b"))
    assert [verdict.valid for verdict in verdicts] == [True, False, True]


def test_async_rewards_work_inside_a_running_loop():
    async def notebook():
        return Scorer(user_rewards.AsyncJudge()).score(samples("abc"))[0].value

    assert asyncio.run(notebook()) == 3


def test_a_batched_object_sees_all_samples_at_once():
    assert values(Scorer(user_rewards.Batch([1, 2.5])), "a", "b") == [1, 2.5]


def test_a_wrong_number_of_scores_is_the_batchs_error():
    verdicts = Scorer(user_rewards.Batch([1])).score(samples("a", "b"))
    assert not any(verdict.valid for verdict in verdicts)
    assert "one score per sample, got 1 for 2" in verdicts[0].reason


def test_one_bad_element_of_a_batch_fails_alone():
    verdicts = Scorer(user_rewards.Batch([1, None])).score(samples("a", "b"))
    assert [verdict.valid for verdict in verdicts] == [True, False]


class Sizes:
    def __init__(self):
        self.seen = []

    def score_batch(self, samples):
        self.seen.append(len(samples))
        return [len(samples)] * len(samples)


def batches(*completions):
    return [Batch(samples(*some), {}) for some in completions]


def test_batches_are_scored_as_if_one_after_the_other():
    """One that ends the run is told in its place, and a batched part is asked once a batch."""
    sizes = Sizes()
    parts = {"sizes": sizes, **inline(user_rewards.obedient)}
    given = batches("ab", ["raise"], [], "a")
    found = Scorer(parts, on_error="raise").score_batches(given)
    assert [[verdict.value for verdict in found[place]] for place in (0, 2, 3)] == [[3.0, 3.0], [], [2.0]]
    assert isinstance(found[1], RewardError)
    assert "the judge is away" in str(found[1])
    assert sizes.seen == [2, 1, 1]
    one_by_one = Scorer(parts)
    assert Scorer(parts).score_batches(given) == [one_by_one.score(batch.samples) for batch in given]


def test_samples_whose_task_failed_are_shown_to_no_part():
    sizes = Sizes()
    scorer = Scorer({"sizes": sizes})
    found = scorer.score_batches([Batch(samples(*"abc"), {1: "no problem"}), Batch(samples("d"), {0: "nor here"})])
    assert [[(verdict.value, verdict.reason) for verdict in batch] for batch in found] == [
        [(2.0, ""), (0.0, "no problem"), (2.0, "")],
        [(0.0, "nor here")],
    ]
    assert sizes.seen == [2]


@pytest.mark.parametrize("part", ["worker", "coroutine", "between calls"])
def test_scoring_can_be_given_up_by_another_thread(part):
    cancelled = threading.Event()

    def gives_up(completion):
        cancelled.set()

    reward = {
        "worker": {"fn": user_rewards.obedient},
        "coroutine": {"fn": user_rewards.patient, "execution": "inline"},
        "between calls": {"fn": gives_up, "execution": "inline"},
    }[part]
    with Scorer({"mine": reward}, timeout_seconds=500) as scorer:
        threading.Timer(0.2, cancelled.set).start()
        with pytest.raises(Cancelled, match="the scores were given up"):
            scorer.score_batches(batches(["hang", "hang"]), cancelled=cancelled)
        if part == "worker":
            assert scorer.score(samples("a"))[0].value == 1.0


def test_what_cannot_be_pickled_must_choose_inline():
    with pytest.raises(ValueError, match=r"reward.reward cannot be sent to a worker process.*execution: inline"):
        Scorer(lambda completion: 1)


def test_a_function_of_a_script_must_choose_inline():
    script = "from rewards import Scorer\ndef f(completion): return 1\nScorer(f)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ValueError: reward.f cannot be sent to a worker process (it is defined in __main__)" in result.stderr


def test_a_scorer_with_running_workers_can_be_copied_and_pickled():
    with Scorer(user_rewards.brevity) as scorer:
        scorer.score(samples("12345"))
        with copy.deepcopy(scorer) as copied, pickle.loads(pickle.dumps(scorer)) as pickled:
            assert copied.score(samples("12345"))[0].value == pickled.score(samples("12345"))[0].value == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_error": "ignore"}, "on_error must be raise, invalid or a finite number, got 'ignore'"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0 and finite, got 0"),
        ({"max_invalid_share": 2}, "max_invalid_share must be from 0 to 1, got 2"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"worker_memory_mb": 8}, "worker_memory_mb must be at least 64, or None, got 8"),
        ({"keep_environment": "HF_TOKEN"}, "keep_environment must be a list of names, got 'HF_TOKEN'"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Scorer(user_rewards.brevity, **settings)


def test_rewards_and_simple_rules_import_neither_torch_nor_sympy():
    script = (
        "import sys, rewards; from rewards import Scorer, Sample, LastInteger, MathAnswer, TagFormat, as_parts\n"
        "s = Scorer({'m': MathAnswer()}); s.score([Sample('', '\\\\boxed{4}', row={'answer': 4})])\n"
        "print({'torch', 'sympy', 'gymnasium', 'transformers', 'numpy'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
