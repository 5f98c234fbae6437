"""The true objectives: their gradients beside finite differences, and beside numbers that are known."""

import pytest
import torch

from agents.verify.exact import OBJECTIVES, gradient, mixture
from agents.verify.scene import Scene, scene
from agents.verify.world import TablePolicy

REVERSE = torch.tensor([0.167271, -0.198815, 0.031543], dtype=torch.float64)
FORWARD = torch.tensor([0.164283, -0.251204, 0.086921], dtype=torch.float64)


def by_differences(where, name, step=1e-6):
    """Central differences of the enumerated objective, with the policy that acted held as it was."""
    logits = where.policy.model.weight.detach()
    acted = TablePolicy(where.world, logits)
    slopes = []
    for k in range(logits.numel()):
        change = torch.zeros(logits.numel(), dtype=torch.float64)
        change[k] = step
        ends = [
            float(OBJECTIVES[name](Scene(where.world, TablePolicy(where.world, table), acted, where.reference)))
            for table in (logits + change.view_as(logits), logits - change.view_as(logits))
        ]
        slopes.append((ends[0] - ends[1]) / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("place", ["letters", "cut"])
def test_gradients_agree_with_finite_differences(name, place):
    where = scene(place)
    torch.testing.assert_close(gradient(where, name), by_differences(where, name), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["reward", "kl", "stepwise_entropy"])
def test_so_they_do_for_two_prompts(name):
    where = scene("prompts")
    torch.testing.assert_close(gradient(where, name), by_differences(where, name), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("name", "expected"), [("kl", REVERSE), ("forward_kl", FORWARD)])
def test_the_kls_of_three_arms_are_those_of_the_table(name, expected):
    torch.testing.assert_close(gradient(scene("bandit"), name), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient(scene("bandit"), f"stepwise_{name}"), expected, rtol=0, atol=1e-6)


def test_the_gradient_of_the_mean_reward_of_three_arms_by_hand():
    """d E[R] / d logit = p (R - E[R])."""
    where = scene("bandit")
    p, score = where.policy.model.weight.detach().softmax(-1)[0], where.world.score
    torch.testing.assert_close(gradient(where, "reward"), p * (score - p @ score))


def test_entropy_and_kl_of_whole_answers_are_the_sums_over_tokens():
    """In value by the chain rule; in gradient not, since a token changes the states that follow."""
    where = scene("letters")
    for whole, steps in (("kl", "stepwise_kl"), ("entropy", "stepwise_entropy")):
        assert float(OBJECTIVES[whole](where)) == pytest.approx(float(OBJECTIVES[steps](where)), abs=1e-12)
        assert (gradient(where, whole) - gradient(where, steps)).abs().max() > 1e-3


def test_a_mixture_is_the_weighted_sum():
    where = scene("letters")
    expected = gradient(where, "reward") - 0.5 * gradient(where, "kl")
    torch.testing.assert_close(mixture(where, {"reward": 1.0, "kl": -0.5}), expected)
    assert mixture(where, {}).tolist() == [0.0] * where.policy.model.weight.numel()
