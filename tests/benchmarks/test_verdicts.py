import math

import pytest
from runs_of_agents import noisy, run_result

from benchmarks.reaching import Reach, pair
from benchmarks.run_result import greedy_by_problem, keep, kept, pass_at_by_problem, unpaired
from benchmarks.verdicts import compare_all


def verdicts(runs, *names, target=0.9):
    """By quantity and pair."""
    found = compare_all(runs, names, target=target, level=0.95, draws=500)
    return {(c.quantity, c.first, c.second): c for c in found}


def test_a_planted_difference_is_found_and_its_winner_is_named_whichever_comes_first():
    runs = noisy("ppo", 0.9) + noisy("slow", 0.1)
    for names in (("ppo", "slow"), ("slow", "ppo")):
        c = verdicts(runs, *names)["held-out accuracy", *names]
        words = c.record()["words"]
        assert c.winner == "ppo"
        assert words.startswith("`ppo` is better than `slow` in held-out accuracy: by 0.8")
        assert "95% interval 0.7" in words
        assert "p < 0.001" in words


def test_where_there_is_no_difference_it_says_so_and_what_it_could_not_have_seen():
    c = verdicts(noisy("ppo", 0.7) + noisy("grpo", 0.7), "ppo", "grpo")["held-out accuracy", "ppo", "grpo"]
    words = c.record()["words"]
    assert c.winner is None
    assert words.startswith("No significant difference between `ppo` and `grpo` in held-out accuracy: `grpo` - `ppo` =")
    assert "With 5 seeds and 60 problems, less than about 0.1" in words


def test_one_seed_gives_no_verdict():
    runs = noisy("ppo", 0.9, seeds=1) + noisy("slow", 0.1, seeds=1)
    c = verdicts(runs, "ppo", "slow")["held-out accuracy", "ppo", "slow"]
    assert c.winner is None
    assert "One seed cannot tell `ppo` and `slow` from their luck" in c.record()["words"]


def test_agents_that_answer_every_problem_alike_are_not_told_apart():
    runs = [run_result(name, seed) for name in ("ppo", "grpo") for seed in (0, 1, 2)]
    c = verdicts(runs, "ppo", "grpo")["held-out accuracy", "ppo", "grpo"]
    assert c.estimate.p == 1
    assert c.estimate.high == pytest.approx(3.8415 / 13.8415, abs=1e-4)  # Wilson's for 0 of 10 problems
    assert "They did the same on all 3 seeds and 10 problems." in c.record()["words"]


def test_every_pair_is_compared_and_holm_counts_the_pairs_of_a_quantity():
    runs = noisy("ppo", 0.7) + noisy("grpo", 0.75) + noisy("slow", 0.1)
    found = verdicts(runs, "ppo", "grpo", "slow")
    accuracy = {
        pair: c for (quantity, *pair_), c in found.items() if quantity == "held-out accuracy" for pair in [tuple(pair_)]
    }
    assert list(accuracy) == [("ppo", "grpo"), ("ppo", "slow"), ("grpo", "slow")]
    assert {c.num_pairs for c in accuracy.values()} == {3}
    smallest = min(accuracy.values(), key=lambda c: c.estimate.p)
    assert smallest.p_corrected == pytest.approx(3 * smallest.estimate.p)
    assert "Holm's correction for 3 pairs" in smallest.record()["words"]


def test_a_difference_that_only_the_correction_takes_back_is_told_as_that():
    """With four seeds pass@1 is better by 1/4, 1/2, 1/4, 1/2: mean 0.375, deviation 0.1443, t = 5.196 with 3 degrees of
    freedom, p = 0.0138. Four agents are 6 pairs: 0.083."""
    runs = [
        run_result(name, seed, (0.5,), num_correct=[(1 + seed % 2) if name == "b" else 0] * 10)
        for name in "abcd"
        for seed in range(4)
    ]
    c = verdicts(runs, *"abcd")["pass@1", "a", "b"]
    assert c.estimate.mean == 0.375
    assert c.estimate.p == pytest.approx(0.0138, rel=0.2)
    assert c.estimate.low > 0
    assert c.winner is None
    assert c.p_corrected == pytest.approx(6 * c.estimate.p)
    assert "The interval alone leaves out 0, the correction does not." in c.record()["words"]


def test_only_seeds_that_both_have_run_are_compared():
    runs = noisy("ppo", 0.9) + [run for run in noisy("slow", 0.1) if run.seed in (1, 3)]
    found = verdicts(runs, "ppo", "slow")
    assert found["held-out accuracy", "ppo", "slow"].estimate.num_seeds == 2
    assert verdicts(noisy("ppo", 0.9), "ppo", "slow") == {}


def test_pass_at_k_is_unbiased_for_each_problem():
    """Of 4 samples 0, 1, 2, 4 right: pass@2 is 1 - C(4 - c, 2) / 6 = 0, 1/2, 5/6, 1."""
    runs = [run_result(num_correct=[0, 1, 2, 4], correct=[0, 0, 1, 1])]
    assert pass_at_by_problem(runs, 2)[0] == pytest.approx([0, 1 / 2, 5 / 6, 1])
    assert greedy_by_problem(runs).tolist() == [[0, 0, 1, 1]]


def test_how_long_it_took_is_compared_as_a_ratio_over_the_seeds():
    """About half the seconds with each seed: the ratio is the geometric mean of 10/20, 10/21 and 10/22; the same
    tokens."""
    runs = [run_result("ppo", s, seconds=20.0 + s) for s in range(3)] + [run_result("grpo", s) for s in range(3)]
    found = verdicts(runs, "ppo", "grpo")
    seconds = found["seconds to 0.9", "ppo", "grpo"]
    assert seconds.winner == "grpo"
    assert seconds.record()["estimate"] == pytest.approx((1000 / (20 * 21 * 22)) ** (1 / 3))
    assert "`grpo` is better than `ppo` in seconds to 0.9: `grpo` takes 0.48 times" in seconds.record()["words"]
    assert found["tokens to 0.9", "ppo", "grpo"].winner is None


def test_three_seeds_with_one_ratio_are_no_proof():
    """A target is seen to be reached at the examination after it, so that a few seeds may well agree to the digit."""
    runs = [run_result("ppo", s, seconds=20.0) for s in range(3)] + [run_result("grpo", s) for s in range(3)]
    seconds = verdicts(runs, "ppo", "grpo")["seconds to 0.9", "ppo", "grpo"]
    assert seconds.winner is None
    assert seconds.estimate.p == 0.25
    assert seconds.record()["words"].endswith("All 3 seeds say the same, and so few may do so by chance.")


def test_an_interval_that_no_number_holds_does_not_lose_the_results():
    """Two seeds at a level of 0.9999: t(1) = 6366 times an error of log(8) / 2, so e^6600."""
    runs = [run_result("ppo", s, seconds=(10.0, 80.0)[s]) for s in range(2)] + [run_result("grpo", s) for s in range(2)]
    found = compare_all(runs, ["ppo", "grpo"], target=0.9, level=0.9999, draws=500)
    record = next(c for c in found if c.quantity == "seconds to 0.9").record()
    assert record["high"] == pytest.approx(1e30)
    assert record["low"] == pytest.approx(1e-30)
    assert "No significant difference" in record["words"]


def test_a_run_that_never_reached_the_target_makes_the_ratio_a_bound():
    """The first ends at 300 without the target, the second reaches it at 100: at most a third."""
    first, second = [Reach(30.0, 300.0, True)], [Reach(10.0, 100.0, False)]
    found = pair(first, second, "tokens")
    assert found.log_ratios == pytest.approx((math.log(1 / 3),))
    assert found.bound == "at most"
    assert pair(second, first, "tokens").bound == "at least"


def test_nothing_is_known_beyond_the_end_of_a_censored_run():
    """The first ended at 200 without the target; that the second took 300 does not make it slower."""
    found = pair([Reach(1.0, 200.0, True)], [Reach(1.0, 300.0, False)], "tokens")
    assert found.log_ratios == (0.0,)


def test_a_target_that_nobody_or_everybody_has_from_the_start_is_not_compared():
    never, start = [Reach(9.0, 9.0, True)], [Reach(0.0, 0.0, False)]
    assert pair(never, never, "tokens") is None
    assert pair(start, start, "tokens") is None
    assert pair([*never, Reach(1, 1, False)], [Reach(2, 2, False), *never], "tokens").bound == "undetermined"


def test_an_unfair_start_is_noticed():
    fair, other = run_result("ppo", 0), run_result("grpo", 0, before={"eval/accuracy": 0.5})
    assert unpaired([fair, run_result("grpo", 0)]) == []
    assert unpaired([fair, other, run_result("ppo", 1)]) == [0]


def test_a_run_is_kept_as_it_was_and_only_for_the_same_settings(tmp_path):
    path, run = tmp_path / "runs" / "a.json", run_result()
    assert kept(path, "same") is None
    keep(run, path)
    assert kept(path, "same") == run
    assert kept(path, "other") is None
    path.write_text(path.read_text().replace('"critic"', '"critics"'))
    assert kept(path, "same") is None
