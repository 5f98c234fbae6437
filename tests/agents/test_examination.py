"""Accuracy on held-out problems and unbiased pass@k."""

from itertools import combinations

import numpy as np
import pytest
import torch
from small import Echo

from agents.evaluate import examine, pass_at_k, powers_of_two
from agents.policy import Policy
from agents.policy.loading import TinyConfig, tiny_model
from textenv import TextVectorEnv


def test_pass_at_k_by_hand():
    """Of 4 samples 2 are right: one draw 1/2; two draws miss with 1/6, so 5/6; three draws cannot miss."""
    assert pass_at_k(4, 2, 1) == pytest.approx(1 / 2)
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(4, 2, 3) == 1
    assert pass_at_k(4, 0, 4) == 0
    assert pass_at_k(10, 3, 5) == pytest.approx(1 - 21 / 252)


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one():
    for samples in range(1, 7):
        for correct in range(samples + 1):
            for k in range(1, samples + 1):
                draws = list(combinations([True] * correct + [False] * (samples - correct), k))
                assert pass_at_k(samples, correct, k) == pytest.approx(np.mean([any(draw) for draw in draws]))


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_what_has_no_meaning(samples, correct, k):
    with pytest.raises(ValueError, match=r"pass@k needs 1 <= k <= samples and 0 <= correct <= samples"):
        pass_at_k(samples, correct, k)


def test_the_ks_are_powers_of_two():
    assert powers_of_two(1) == [1]
    assert powers_of_two(9) == [1, 2, 4, 8]


def examined(*, rows=4, samples=8, seed=0, correct_at=1.0):
    env = TextVectorEnv(rows, task=Echo(), max_new_tokens=2, split="test")
    model = tiny_model(len(env.tokenizer), TinyConfig(16, 1, 2, 32), seed=seed, device=torch.device("cpu"))
    policy = Policy(model, num_actions=len(env.tokenizer))
    return examine(env, policy, num_problems=100, samples=samples, correct_at=correct_at)


def test_the_numbers_agree_with_each_other():
    found = examined()
    assert len(found.greedy.ended) == 4  # the split has no more
    right = [ended.verdict.value == 1 for ended in found.greedy.ended]
    assert found.accuracy == np.mean(right)
    assert found.pass_at[1] == pytest.approx(found.sampled_accuracy)
    assert list(found.pass_at) == [1, 2, 4, 8]
    values = list(found.pass_at.values())
    assert values == sorted(values)
    assert 0 < found.sampled_accuracy < 1
    metrics = found.metrics()
    assert metrics["eval/accuracy"] == found.accuracy
    assert metrics["eval/pass@8"] == found.pass_at[8]


def test_fewer_rows_give_the_same_numbers():
    a, b = examined(), examined(rows=3)
    assert a.metrics() == b.metrics()


def test_without_samples_only_the_greedy_answer_counts():
    found = examined(samples=0)
    assert found.sampled_accuracy is None
    assert set(found.metrics()) == {"eval/accuracy", "eval/mean_length"}


def test_a_lower_bar_is_passed_more_often():
    assert examined(correct_at=0.0).accuracy == 1


def test_what_was_right_is_known_problem_by_problem():
    found = examined()
    kept = found.by_problem()
    assert kept["correct"] == [int(ended.verdict.value == 1) for ended in found.greedy.ended]
    assert np.mean(kept["correct"]) == found.accuracy
    assert (kept["samples"], len(kept["num_correct"])) == (8, 4)
    assert sum(kept["num_correct"]) / (8 * 4) == pytest.approx(found.sampled_accuracy)
    assert np.mean([pass_at_k(8, c, 4) for c in kept["num_correct"]]) == pytest.approx(found.pass_at[4])
    assert examined(samples=0).by_problem()["num_correct"] == []
