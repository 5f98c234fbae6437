"""Epochs, minibatches, microbatches: everything between a loss per token and a changed weight.

This is the one place that divides. A loss function returns one number a token; `token_weights` turns the aggregation
into one weight a token, computed on the whole minibatch; a microbatch only adds its share of the weighted sum. So
no split into microbatches, no padding and no order of rows can change the gradient, and nothing need be divisible.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from agents.losses import AGGREGATIONS, token_weights, weighted_sum
from agents.master_weights import MasterWeights, trained_parameters
from agents.policy import Policy
from agents.policy.packing import microbatches
from agents.require import require
from agents.rollout import Rollout

DECAYS = ("constant", "linear", "cosine")


@dataclass
class OptimConfig:
    """How a rollout becomes optimizer steps."""

    learning_rate: float = 1e-5
    critic_learning_rate: float | None = None
    """None: the same as `learning_rate`. With a shared trunk it is the rate of the value head alone."""
    decay: str = "constant"
    """`constant`, `linear` or `cosine`, down to 0 at the end of the run."""
    critic_decay: str | None = None
    """None: the same as `decay`."""
    decay_share: float = 1.0
    """Share of the run, at its end, in which the rates decay; 1: from the start (below 1: arXiv 2404.06395)."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rates rise from 0."""
    epochs: int = 1
    """Passes over each rollout."""
    minibatch_rows: int | None = None
    """Rows per optimizer step; None takes the whole rollout. Groups stay together."""
    microbatch_tokens: int = 2048
    """Packed tokens that are forwarded and differentiated at once: memory, nothing else."""
    checkpoint_activations: bool | None = None
    """Forward each layer again in the backward pass instead of keeping what it computed: memory for a third more
    time. null: only where the run would not fit otherwise."""
    aggregation: str = "token_mean"
    """`token_mean`, `sequence_mean`, `sequence_sum` or `constant` (see `agents.losses.token_weights`)."""
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])

    def __post_init__(self) -> None:
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"agent.optim.betas must be two numbers from 0 to below 1, got {self.betas}",
        )
        for name in ("epochs", "microbatch_tokens"):
            require(getattr(self, name) >= 1, f"agent.optim.{name} must be at least 1, got {getattr(self, name)}")
        rows = self.minibatch_rows
        require(rows is None or rows >= 1, f"agent.optim.minibatch_rows must be at least 1 or null, got {rows}")
        require(self.warmup_steps >= 0, f"agent.optim.warmup_steps must be at least 0, got {self.warmup_steps}")
        for name in ("learning_rate", "critic_learning_rate", "weight_decay"):
            x = getattr(self, name)
            ok = x is None or (math.isfinite(x) and x >= 0)
            require(ok, f"agent.optim.{name} must be a number of at least 0, got {x}")
        require(self.max_grad_norm > 0, f"agent.optim.max_grad_norm must be above 0, got {self.max_grad_norm}")
        require(0 < self.decay_share <= 1, f"agent.optim.decay_share must be in (0, 1], got {self.decay_share}")
        for name in ("decay", "critic_decay"):
            x = getattr(self, name)
            require(
                x in DECAYS or (x is None and name == "critic_decay"),
                f"agent.optim.{name} must be one of {', '.join(DECAYS)}, got {x!r}",
            )
        require(
            self.aggregation in AGGREGATIONS,
            f"agent.optim.aggregation must be one of {', '.join(AGGREGATIONS)}, got {self.aggregation!r}",
        )


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """What a loss function returns for some rows: one number a token, and what is worth reporting about them."""

    loss: Float[Tensor, "N A"]
    """With gradient."""
    report: Mapping[str, Float[Tensor, "N A"]] = field(default_factory=dict)
    """Detached; logged as means over the tokens that took part."""
    logprob: Float[Tensor, "N A"] | None = None
    """Detached, for the comparison with the sampler's."""


LossFunction = Callable[[Tensor], TokenLoss]
Watch = Callable[[Tensor, TokenLoss], None]


def minibatch_groups(config: OptimConfig, prompts: int, group_size: int) -> int:
    """How many groups the largest minibatch has: whole ones, until it has its rows.

    >>> minibatch_groups(OptimConfig(minibatch_rows=30), 20, 4)
    8
    """
    if config.minibatch_rows is None:
        return prompts
    return min(prompts, -(-config.minibatch_rows // group_size))


def num_minibatches(config: OptimConfig, prompts: int, group_size: int) -> int:
    """Optimizer steps of an epoch; the last may have fewer groups.

    >>> num_minibatches(OptimConfig(minibatch_rows=30), 20, 4), num_minibatches(OptimConfig(minibatch_rows=20), 3, 8)
    (3, 1)
    """
    return -(-prompts // minibatch_groups(config, prompts, group_size))


class Optimizer:
    """AdamW over the policy (and a critic at its own learning rate), fed with losses per token.

    Turns the policy's parameters into `dtype` and keeps float32 masters of those that are trained. Under an adapter
    that is the adapter alone: the frozen weights have neither master nor gradient nor moments.
    """

    def __init__(
        self,
        policy: Policy,
        config: OptimConfig,
        *,
        total_iterations: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.seed, self.total_iterations = config, seed, total_iterations
        self.actor = MasterWeights(trained_parameters(policy.model).items(), dtype)
        critic = {name: p for name, p in trained_parameters(policy).items() if not name.startswith("model.")}
        for parameter in policy.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        self.critic = MasterWeights(critic.items(), dtype, exact=[n for n in critic if n.startswith("value_head.")])
        groups = [{"params": list(self.actor.masters.values()), "name": "actor"}]
        if critic:
            groups.append({"params": list(self.critic.masters.values()), "name": "critic"})
        betas = (config.betas[0], config.betas[1])
        self.adam = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay, fused=True
        )
        self.num_steps = 0
        self.num_critic_steps = 0
        """Of them those that held the actor; its warm-up does not count them."""
        self.num_updates = 0
        self.watch: Watch | None = None
        """Told the rows and the loss of every microbatch, as it is computed."""

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [p for group in self.adam.param_groups for p in group["params"]]

    def descend(
        self,
        loss: LossFunction,
        rollout: Rollout,
        *,
        skip: Bool[Tensor, "N"] | None = None,
        max_tokens: int | None = None,
        stop: Callable[[Mapping[str, float]], bool] | None = None,
        hold_actor: bool = False,
    ) -> dict[str, float]:
        """All epochs and minibatches over one rollout; returns metrics, means over the tokens that took part.

        Rows marked `skip` have a loss of exactly zero: they keep their weight in every mean but are not computed.
        `stop` is asked with the means of each minibatch before its step is taken; True ends the update.
        With `hold_actor` only the critic learns: no weight of the actor moves, nor does what Adam keeps of it.
        `max_tokens` belongs to the aggregation `constant`. Raises `FloatingPointError` when a loss is not finite.
        """
        sums, tokens, norms = defaultdict[str, float](float), 0, []
        first: dict[str, float] = {}
        stopped = False
        with self._holding(hold_actor):
            for rows in self._minibatches(rollout):
                means, count, mismatch = self.accumulate(loss, rollout, rows, skip=skip, max_tokens=max_tokens)
                first = first or mismatch
                tokens += count
                for name, mean in means.items():
                    sums[name] += mean * count
                if stop is not None and count and stop(means):
                    self._zero_grad()
                    stopped = True
                    break
                if count:
                    norms.append(self._step(hold_actor))
        self.num_updates += 1
        metrics = {name: total / max(tokens, 1) for name, total in sums.items()}
        metrics |= first | {f"learning_rate{suffix}": rate for suffix, rate in self.learning_rates().items()}
        metrics["grad_norm"] = sum(norms) / max(len(norms), 1)
        metrics["optimizer_steps"] = float(len(norms))
        metrics["early_stop"] = float(stopped)
        return metrics

    def gradient(self, loss: LossFunction, rollout: Rollout, *, max_tokens: int | None = None) -> dict[str, float]:
        """Leave the gradient of the loss of all rows in the parameters and take no step; returns the tokens' means."""
        self._zero_grad()
        means, _, _ = self.accumulate(loss, rollout, torch.arange(len(rollout)), max_tokens=max_tokens)
        return means

    def _minibatches(self, rollout: Rollout) -> Iterator[Int[Tensor, "R"]]:
        """Row numbers of each optimizer step: whole groups, in an order of their own for every epoch."""
        for epoch in range(self.config.epochs):
            key = hash((self.seed, self.num_updates, epoch)) % 2**63
            generator = torch.Generator().manual_seed(key)
            problems = rollout.problem.unique()
            taken: list[Tensor] = []
            for index in torch.randperm(len(problems), generator=generator):
                taken.append((rollout.problem == problems[index]).nonzero()[:, 0])
                most = self.config.minibatch_rows
                if most is not None and sum(map(len, taken)) >= most:
                    yield torch.cat(taken)
                    taken = []
            if taken:
                yield torch.cat(taken)

    def accumulate(
        self,
        loss: LossFunction,
        rollout: Rollout,
        rows: Int[Tensor, "R"],
        *,
        skip: Bool[Tensor, "N"] | None = None,
        max_tokens: int | None = None,
        aggregation: str | None = None,
        backward: bool = True,
    ) -> tuple[dict[str, float], int, dict[str, float]]:
        """Add the gradient of one minibatch; returns means over its tokens, their number, and sampler mismatch.

        The mean `loss` is the aggregated one. `aggregation` None is that of the settings. Without `backward` nothing is
        differentiated and only the numbers are returned. Raises `FloatingPointError` when the loss is not finite.
        """
        weight = token_weights(rollout.trainable[rows], aggregation or self.config.aggregation, max_tokens=max_tokens)
        active = rollout.trainable[rows].any(1)
        if skip is not None:
            active &= ~skip[rows]
        rows, weight = rows[active], weight[active]
        sums, count, whole = defaultdict[str, float](float), 0, 0.0
        differences: list[Tensor] = []
        for part in microbatches(rollout[rows], self.config.microbatch_tokens) if len(rows) else []:
            mask = rollout.trainable[rows[part]]
            with torch.set_grad_enabled(backward):
                result = loss(rows[part])
                total = weighted_sum(result.loss, weight[part].to(result.loss.device))
            if self.watch is not None:
                self.watch(rows[part], result)
            if not total.isfinite():
                raise FloatingPointError(f"the loss of rows {rows[part].tolist()} is {total.item()}")
            if backward:
                total.backward()
            num_tokens = int(mask.sum())
            count += num_tokens
            for name, x in result.report.items():
                sums[name] += float(x.cpu()[mask].sum())
            whole += total.item()
            if result.logprob is not None:
                differences.append((result.logprob.cpu() - rollout.sampled_logprob[rows[part]])[mask])
        means = {name: x / max(count, 1) for name, x in sums.items()} | {"loss": whole}
        return means, count, sampler_mismatch(differences)

    @contextmanager
    def _holding(self, hold: bool) -> Iterator[None]:
        """Within it the actor's weights have no gradient, so that neither the backward pass nor Adam comes to them."""
        parameters = list(self.actor.parameters.values()) if hold else []
        masters = list(self.actor.masters.values()) if hold else []
        gradients = [master.grad for master in masters]
        for parameter in parameters:
            parameter.requires_grad_(False)
        for master in masters:
            master.grad = None
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)
            for master, gradient in zip(masters, gradients, strict=True):
                master.grad = gradient

    def _step(self, hold_actor: bool) -> float:
        self._schedule(hold_actor)
        norm = nn.utils.clip_grad_norm_(self.trainable, self.config.max_grad_norm)
        if not norm.isfinite():
            raise FloatingPointError(f"the gradient norm is {float(norm)}")
        self.adam.step()
        self.num_steps += 1
        self.num_critic_steps += hold_actor
        self._zero_grad()
        self.actor.publish()
        self.critic.publish()
        return float(norm)

    def _zero_grad(self) -> None:
        for parameter in self.trainable:
            if parameter.grad is not None:
                parameter.grad.zero_()

    def _schedule(self, hold_actor: bool) -> None:
        """Both rates decay with the run; each rises over its own first steps."""
        c = self.config
        actor = 0.0 if hold_actor else c.learning_rate
        rates = {"actor": (actor, c.decay, self.num_steps - self.num_critic_steps)}
        rates["critic"] = (
            c.learning_rate if c.critic_learning_rate is None else c.critic_learning_rate,
            c.critic_decay or c.decay,
            self.num_steps,
        )
        left = 1 - self.num_updates / max(self.total_iterations, 1)
        for group in self.adam.param_groups:
            rate, decay, steps = rates[group["name"]]
            warm = min(1.0, (steps + 1) / (c.warmup_steps + 1))
            group["lr"] = rate * warm * decayed(decay, 1 - left / c.decay_share)

    def learning_rates(self) -> dict[str, float]:
        """The rates of the last step: key `""` for the actor, `/critic` for the critic."""
        return {"" if g["name"] == "actor" else "/critic": float(g["lr"]) for g in self.adam.param_groups}

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {
            "actor": {name: p.detach() for name, p in self.actor.masters.items()},
            "critic": {name: p.detach() for name, p in self.critic.masters.items()},
            "adam": self.adam.state_dict(),
            "num_steps": self.num_steps,
            "num_critic_steps": self.num_critic_steps,
            "num_updates": self.num_updates,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.actor.load(state["actor"])
        self.critic.load(state["critic"])
        self.adam.load_state_dict(state["adam"])
        self.num_steps, self.num_updates = state["num_steps"], state["num_updates"]
        self.num_critic_steps = state.get("num_critic_steps", 0)


def decayed(decay: str, progress: float) -> float:
    """The share of the learning rate that is left at `progress` in [0, 1]; all of it before.

    >>> decayed("linear", 0.25), round(decayed("cosine", 0.5), 3), decayed("constant", 0.9)
    (0.75, 0.5, 1.0)
    """
    progress = min(max(progress, 0.0), 1.0)
    if decay == "linear":
        return 1 - progress
    return 0.5 * (1 + math.cos(math.pi * progress)) if decay == "cosine" else 1.0


def sampler_mismatch(differences: list[Tensor]) -> dict[str, float]:
    """How far the sampler's log-probabilities are from the training pass's, before any step was taken."""
    if not differences:
        return {}
    d = torch.cat(differences)
    return {
        "ratio/first_minibatch_max": float(d.abs().max().exp()),
        "sampling/logprob_difference/mean": float(d.abs().mean()),
        "sampling/logprob_difference/max": float(d.abs().max()),
    }
