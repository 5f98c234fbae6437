"""Completions that were cut off and what is paid, against numbers worked out by hand."""

import math

import pytest
import torch
from small import make_rollout, prompts_of

from agents.credit import bounded, counted, credit, critic_metrics, last_token, penalized, whitened
from textenv import FinishReason

REASONS = torch.tensor([FinishReason.EOS, FinishReason.BUDGET, FinishReason.CONTEXT, FinishReason.STOP])


def four_rows(**fields):
    """Ended, cut by the budget (called terminated), cut by the context (called truncated), ended."""
    fields = {
        "returns": [1.0, 2.0, 3.0, 4.0],
        "finish_reason": REASONS,
        "truncated": torch.tensor([False, False, True, False]),
        "value": torch.zeros(4, 2),
        "final_value": torch.full((4,), 8.0),
    } | fields
    return make_rollout(prompts_of((3,) * 4), [[9, 10]] * 4, **fields)


def test_budget_and_context_cut_a_completion_whatever_the_environment_calls_it():
    assert four_rows().cut.tolist() == [False, True, True, False]
    assert four_rows(truncated=torch.zeros(4, dtype=torch.bool)).cut.tolist() == [False, True, True, False]


def test_mask_leaves_cut_completions_out_and_the_others_leave_all_in():
    valid = torch.tensor([True, True, True, False])
    assert counted(four_rows(valid=valid), "mask").valid.tolist() == [True, False, False, False]
    for how in ("bootstrap", "terminal", "penalty"):
        assert counted(four_rows(valid=valid), how).valid.tolist() == valid.tolist()


def test_only_bootstrap_adds_a_value_and_only_where_the_environment_truncated():
    """V = 0, then 8 behind the end; gamma 0.5, lambda 0: the last delta is the reward, plus 4 where truncated."""
    settings = {"gamma": 0.5, "lam": 0.0}
    advantage, _ = credit(four_rows(), **settings, truncation="bootstrap")
    assert advantage[:, 1].tolist() == [1.0, 2.0, 7.0, 4.0]
    for how in ("terminal", "penalty"):
        assert credit(four_rows(), **settings, truncation=how)[0][:, 1].tolist() == [1.0, 2.0, 3.0, 4.0]
    masked, target = credit(counted(four_rows(), "mask"), **settings, truncation="mask")
    assert masked[:, 1].tolist() == target[:, 1].tolist() == [1.0, 0.0, 0.0, 4.0]


def test_the_penalty_comes_off_the_last_policy_token_of_what_was_cut():
    """Behind the second row's last policy token stands a tool's answer; the third row is shorter."""
    rollout = make_rollout(
        prompts_of((3,) * 3),
        [[9, 10, 11, 12], [9, 10, 20, 21], [9]],
        masks=[[1, 1, 1, 1], [1, 1, 0, 0], [1]],
        returns=[1.0, 1.0, 1.0],
        finish_reason=torch.tensor([FinishReason.EOS, FinishReason.CONTEXT, FinishReason.BUDGET]),
    )
    assert last_token(rollout.mask).int().tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]
    paid = penalized(rollout, 0.75).reward
    assert paid.tolist() == [[0, 0, 0, 1], [0, 0.25, 0, 0], [0.25, 0, 0, 0]]
    assert penalized(rollout, None) is rollout


def test_a_row_without_policy_tokens_has_no_last_one():
    assert not last_token(torch.zeros(1, 3, dtype=torch.bool)).any()


def test_rewards_are_clipped_on_both_sides_token_by_token():
    rollout = four_rows(reward=torch.tensor([[5.0, -3.0], [0.5, 2.0], [0.0, -2.0], [-0.5, 9.0]]))
    assert bounded(rollout, 2.0).reward.tolist() == [[2.0, -2.0], [0.5, 2.0], [0.0, -2.0], [-0.5, 2.0]]
    assert bounded(rollout, None) is rollout


def test_whitening_over_tokens_puts_the_mean_back():
    """Policy tokens paid 0, 0 and 3: mean 1, population std sqrt(2); the zeros become 1 - 1 / sqrt(2)."""
    rollout = make_rollout(
        prompts_of((3,) * 3), [[9, 10], [9], [9]], returns=[0.0, 3.0, 99.0], valid=torch.tensor([True, True, False])
    )
    found = whitened(rollout, "tokens").reward
    zero, three = 1 - 1 / math.sqrt(2), 1 + 2 / math.sqrt(2)
    assert found.flatten().tolist() == pytest.approx([zero, zero, three, 0, 0, 0])


def test_whitening_over_returns_only_divides():
    """Returns 0 and 4 of valid rows: std 2. The row whose grader failed counts for nothing."""
    rollout = make_rollout(
        prompts_of((3,) * 3), [[9, 10], [9], [9]], returns=[0.0, 4.0, 99.0], valid=torch.tensor([True, True, False])
    )
    assert whitened(rollout, "returns").reward[:2].tolist() == [[0, 0], [2, 0]]


def test_returns_that_are_all_equal_are_left_as_they_are():
    rollout = make_rollout(prompts_of((3,) * 3), [[9]] * 3, returns=[0.1] * 3)
    assert whitened(rollout, "returns") is rollout
    nothing = rollout.with_(valid=torch.zeros(3, dtype=torch.bool))
    assert whitened(nothing, "returns") is nothing
    assert whitened(rollout, None) is rollout


def test_the_critic_is_judged_on_what_counts():
    """Values 1 and 3 for targets 2 and 4: every error is 1, so all variance is explained; the invalid row is not."""
    rollout = four_rows(
        value=torch.tensor([[1.0, 3.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]),
        valid=torch.tensor([True, False, False, False]),
    )
    target = torch.tensor([[2.0, 4.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert critic_metrics(rollout, target) == {"value/mean": 2.0, "explained_variance": 1.0}
    assert critic_metrics(rollout, torch.ones(4, 2)) == {"value/mean": 2.0}
