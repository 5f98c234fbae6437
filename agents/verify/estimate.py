"""The expected gradient of an agent's own update, summed over every batch that it could have been given.

The agent is the real one, and so are its advantages, its losses and the weights of its tokens. Only its policy is a
table, whose scores are handed to the loss as leaves: one backward pass gives the slope of every batch in every
log-probability, and the chain rule does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.credit import counted
from agents.grpo import GRPO
from agents.kl import k1
from agents.losses import token_weights, weighted_sum
from agents.policy import Evaluation
from agents.ppo import PPO
from agents.rollout import Rollout
from agents.trpo import TRPO
from agents.verify.cells import Cell
from agents.verify.scene import Scene
from agents.verify.world import TablePolicy

Agent = GRPO | PPO | TRPO


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the gradients of all batches are together. They point uphill, in the policy's logits."""

    mean: Float[Tensor, "D"]
    variance: float
    """Of the gradient of one batch: E|g - Eg|^2."""


class Leaves:
    """A policy whose scores have no history, so that a loss leaves its slope in each of them."""

    def __init__(self, policy: TablePolicy) -> None:
        self.policy, self.device = policy, policy.device
        self.model, self.value_head = policy.model, policy.value_head
        self.scores: Evaluation | None = None

    def evaluate(self, rollout: Rollout, **options: Any) -> Evaluation:
        """The same scores, as leaves."""
        with torch.no_grad():
            scores = self.policy.evaluate(rollout, **options)
        found: dict[str, Any] = {f.name: getattr(scores, f.name) for f in fields(scores)}
        leaves: dict[str, Any] = {name: None if x is None else x.requires_grad_() for name, x in found.items()}
        self.scores = Evaluation(**leaves)
        return self.scores


def estimate(cell: Cell) -> Estimate:
    """Mean and variance of the gradient of one optimizer step."""
    with in_float64():
        batch, probability = cell.scene.batches()
        return weighed(gradients(cell, batch), probability)


def estimate_k1(where: Scene) -> Estimate:
    """What k1 would do in a loss, where the project refuses it."""
    with in_float64():
        leaves = Leaves(where.policy)
        batch, probability = where.batches()
        rows = where.world.rollout(batch.flatten())
        loss = k1(leaves.evaluate(rows).logprob, where.reference.score(rows).logprob)
        return weighed(by_batch(where, leaves, batch, loss[rows.mask].sum() / batch.shape[1]), probability)


def weighed(gradient: Float[Tensor, "B D"], probability: Float[Tensor, "B"]) -> Estimate:
    """Mean and variance over batches."""
    mean = probability @ gradient
    return Estimate(mean, float(probability @ (gradient - mean).square().sum(1)))


def gradients(cell: Cell, batch: Int[Tensor, "B N"]) -> Float[Tensor, "B D"]:
    """The gradient of one optimizer step on each batch, whose rows are trajectories' numbers."""
    leaves = Leaves(with_critic(cell))
    agent: Any = agent_of(cell, leaves)
    rows = annotated(cell, batch.flatten())
    parts = [rows[slice(start, start + batch.shape[1])] for start in range(0, len(rows), batch.shape[1])]
    advantages, weights = zip(*(step_inputs(agent, part) for part in parts), strict=True)
    loss = agent.loss(rows, *(torch.cat(column) for column in zip(*advantages, strict=True))).loss
    return by_batch(cell.scene, leaves, batch, weighted_sum(loss, torch.cat(weights)))


def by_batch(where: Scene, leaves: Leaves, batch: Int[Tensor, "B N"], loss: Float[Tensor, ""]) -> Float[Tensor, "B D"]:
    """The gradient of the `loss` of all batches together, taken apart."""
    loss.backward()
    return -to_logits(where, leaves, batch.flatten()).view(*batch.shape, -1).sum(1)


def step_inputs(agent: Any, part: Rollout) -> tuple[tuple[Tensor, ...], Tensor]:
    """What a batch gives to the loss, and the weight of each token, as `update` and `Optimizer.descend` make them."""
    config, advantages = agent.config, agent.advantages(part)
    carries_loss = counted(part, config.truncation).trainable
    weight = token_weights(carries_loss, config.optim.aggregation, max_tokens=part.max_tokens)
    if isinstance(agent, TRPO):  # the critic has a loss of its own
        advantages = advantages[0]
    return advantages if isinstance(advantages, tuple) else (advantages,), weight


def agent_of(cell: Cell, policy: Any, optimizer: Any = None) -> Agent:
    """The agent that the settings make."""
    config = cell.config()
    reference: Any = cell.scene.reference if config.needs_reference else None
    kind: Any = {"grpo": GRPO, "ppo": PPO, "trpo": TRPO}[cell.agent]
    return kind(config, policy, optimizer, reference)


def with_critic(cell: Cell) -> TablePolicy:
    """The policy, with the critic that PPO asks for: right, or off by some number in every state."""
    where = cell.scene
    if cell.agent == "grpo":
        return where.policy
    config, world = cell.config(), where.world
    beyond = world.beyond if config.truncation == "bootstrap" else torch.zeros_like(world.beyond)
    penalty = (getattr(config, "truncation_penalty", None) or 0.0) * world.truncated
    value = where.value(world.score * cell.scored - penalty + beyond)
    if cell.critic == "wrong":
        value = value + torch.linspace(-1, 1, len(value), dtype=torch.float64)
        beyond = beyond + torch.linspace(1, 0, len(beyond), dtype=torch.float64)
    unread = beyond.masked_fill(~world.truncated, torch.nan)
    return TablePolicy(world, where.policy.model.weight.detach(), value=value, final_value=unread)


@torch.no_grad()
def annotated(cell: Cell, number: Int[Tensor, "N"]) -> Rollout:
    """The trajectories of these numbers with the scores that an update adds to them (`agents.annotate`)."""
    where = cell.scene
    rollout = where.world.rollout(number)
    if not cell.scored:
        rollout = rollout.with_(reward=rollout.reward * 0)
    acted = where.acted.score(rollout, kl_to=where.reference)
    old_logprob = acted.logprob if where.off_policy or cell.agent != "grpo" else None
    scores = with_critic(cell).score(rollout)
    return rollout.with_(
        sampled_logprob=acted.logprob,
        old_logprob=old_logprob,
        reference_logprob=where.reference.score(rollout).logprob,
        reference_kl=acted.kl if cell.settings.get("kl_in") == "both" else None,
        value=scores.value,
        final_value=scores.final_value,
    )


def to_logits(where: Scene, leaves: Leaves, number: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
    """The slopes that a loss left in the scores, carried on to the policy's logits, row by row."""
    policy, scores = leaves.policy, leaves.scores
    assert scores is not None
    every = where.world.rollout(torch.arange(len(where.world.prompt)))
    live = policy.evaluate(every, with_entropy=True, kl_to=where.reference)
    total = torch.zeros(len(number), policy.model.weight.numel(), dtype=torch.float64)
    for name in ("logprob", "entropy", "kl"):
        leaf, x = getattr(scores, name), getattr(live, name)
        if leaf is None or leaf.grad is None:
            continue
        each = torch.eye(x.numel(), dtype=torch.float64).view(-1, *x.shape)
        slope = torch.autograd.grad(x, policy.model.weight, each, is_grads_batched=True, retain_graph=True)[0]
        total += torch.einsum("na,nad->nd", leaf.grad, slope.view(*x.shape, -1)[number])
    return total


@contextmanager
def in_float64() -> Iterator[None]:
    """Numbers that are made of none take float64 here, so that sums can be compared to ten digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
