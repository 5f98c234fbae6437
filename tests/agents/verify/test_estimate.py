"""What is summed is what is trained: the gradient of every kind of cell is that of the agent's own `update`."""

import copy
from dataclasses import replace
from itertools import product

import pytest
import torch

from agents.annotate import annotate
from agents.credit import counted
from agents.optim import Optimizer
from agents.verify.cells import Cell, table
from agents.verify.estimate import agent_of, estimate, gradients, in_float64, with_critic

OWN = [cell for cell in table() if not cell.older and cell.scene_name not in ("bandit", "long")]


def is_allowed(cell):
    """Whether the project does not refuse it."""
    try:
        cell.config()
    except ValueError:
        return False
    return True


def updated(cell, number):
    """The gradient that `update` gives Adam for these trajectories."""
    policy = copy.deepcopy(with_critic(cell))
    agent = agent_of(cell, policy)
    optim = replace(agent.config.optim, max_grad_norm=1e9)
    agent.optimizer = Optimizer(policy, optim, total_iterations=1, seed=0, dtype=torch.float64)
    rollout = cell.scene.world.rollout(number)
    rollout = rollout.with_(sampled_logprob=policy.score(rollout).logprob)
    if not cell.scored:
        rollout = rollout.with_(reward=rollout.reward * 0)
    if cell.agent == "trpo":
        rollout = counted(annotate(rollout, policy, agent.reference, optim), agent.config.truncation)
        return agent.surface(rollout, agent.advantages(rollout)[0]).ascent()[0]
    agent.update(rollout)
    weight = policy.model.weight
    if weight not in agent.optimizer.adam.state:
        return torch.zeros(weight.numel(), dtype=torch.float64)
    return -agent.optimizer.adam.state[weight]["exp_avg"].flatten() / (1 - optim.betas[0])


@pytest.mark.parametrize("cell", list(filter(is_allowed, OWN)), ids=lambda cell: f"{cell.scene_name} {cell.name}")
def test_the_gradient_of_a_batch_is_that_of_the_agents_own_update(cell):
    """A batch of several lengths and ends, with a row twice."""
    number = {"prompts": [0, 1, 1, 3, 4, 5]}.get(cell.scene_name, [0, 3, 4])
    if cell.group_size is not None:
        number = [0, 1, 1, 2, 0, 3, 4, 5, 4, 4]
    batch = torch.tensor([number])
    with in_float64():
        expected = updated(cell, batch[0])
        found = gradients(cell, batch)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert expected.norm() > 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"baseline": "batch", "scale_advantages": "batch", "aggregation": "token_mean"},
        {"baseline": "group", "scale_advantages": "group", "aggregation": "sequence_mean"},
    ],
)
def test_the_mean_over_batches_is_that_over_every_order_of_rows(settings):
    """All 3^6 ordered batches of two prompts, each on its own."""
    cell = Cell("", "grpo", settings, scene_name="prompts")
    chance = cell.scene.probability()
    orders = torch.tensor([(*a, *b) for a, b in product(product(range(3), repeat=3), product(range(3, 6), repeat=3))])
    with in_float64():
        each = gradients(cell, orders)
    probability = chance[orders].prod(1)
    found, mean = estimate(cell), probability @ each
    torch.testing.assert_close(found.mean, mean, rtol=1e-10, atol=1e-13)
    assert found.variance == pytest.approx(float(probability @ (each - mean).square().sum(1)), rel=1e-10)


def test_what_may_not_be_read_is_not():
    """Rewards, log-probabilities and values outside the mask are NaN in every rollout here."""
    cell = Cell("", "ppo", {"truncation": "bootstrap"}, scene_name="cut")
    assert estimate(cell).mean.isfinite().all()


def test_the_default_number_format_is_given_back():
    estimate(Cell("", "grpo", scene_name="bandit"))
    assert torch.get_default_dtype() == torch.float32
