"""TRPO (arXiv 1502.05477) on tokens: the step that PPO's clip stands in for.

One step a rollout: along the natural gradient, so far that the mean KL to the old policy is `max_kl`, and only where a
line search has seen that the surrogate is better and the KL is kept (`trust_region`). The critic learns behind it, by
Adam. What trains what: the step moves the policy's weights alone, the value loss the critic's alone, which with the
shared critic is the value head and never the trunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.advantages import whiten
from agents.annotate import annotate, kl_metrics, pay_kl
from agents.credit import counted, credit, critic_metrics, penalized
from agents.kl import k3
from agents.losses import penalty_surrogate, value_loss
from agents.optim import Optimizer, TokenLoss
from agents.policy import Policy
from agents.rollout import Lesson, Rollout
from agents.trpo.config import TRPOConfig
from agents.trpo.surface import Surface
from agents.trpo.trust_region import Search, line_search, natural_step


class TRPO:
    """Goes as far as it may, in the direction that changes what the policy does, not how its weights are written."""

    def __init__(
        self, config: TRPOConfig, policy: Policy, optimizer: Optimizer, reference: Policy | None = None
    ) -> None:
        if torch.finfo(policy.model.weight.dtype).bits < 32:
            raise ValueError(
                "agent=trpo needs policy.precision=float32 (the curvature is a difference of gradients that lie close "
                f"together), got {str(policy.model.weight.dtype).removeprefix('torch.')}"
            )
        self.config, self.policy, self.optimizer, self.reference = config, policy, optimizer, reference
        self.lesson: Lesson | None = None

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns metrics."""
        c = self.config
        rollout = counted(annotate(rollout, self.policy, self.reference, c.optim), c.truncation)
        advantage, target = self.advantages(rollout)
        self.lesson = Lesson(rollout, advantage)
        moved = self._move(self.surface(rollout, advantage))
        learned = self.optimizer.descend(
            lambda rows: self.critic_loss(rollout[rows], target[rows]),
            rollout,
            max_tokens=rollout.max_tokens,
            hold_actor=True,
        )
        learned = {name: learned[name] for name in ("value_loss", "learning_rate/critic") if name in learned} | {
            "grad_norm/critic": learned["grad_norm"],
            "optimizer_steps": learned["optimizer_steps"] + moved["line_search/accepted"],
        }
        return {**learned, **moved, **kl_metrics(rollout), **critic_metrics(rollout, target)}

    def advantages(self, rollout: Rollout) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A"]]:
        """Advantages (whitened if asked) and value targets A + V, from what is paid in the end."""
        c, rollout = self.config, counted(rollout, self.config.truncation)
        rollout = penalized(rollout, c.truncation_penalty)
        if self.reference is not None:
            rollout = pay_kl(rollout, c.kl_coef)
        advantage, target = credit(rollout, gamma=c.gamma, lam=c.lam, truncation=c.truncation)
        return (whiten(advantage, rollout.trainable) if c.whiten_advantages else advantage), target

    def loss(self, rollout: Rollout, advantage: Float[Tensor, "N A"]) -> TokenLoss:
        """The negated surrogate `ratio A`, per token, and the KL(old || new) beside it."""
        rollout, advantage = rollout.to(self.policy.device), advantage.to(self.policy.device)
        mask, old = rollout.trainable, rollout.known("old_logprob")
        logprob = self.policy.evaluate(rollout).logprob
        loss = penalty_surrogate(logprob, old, advantage, mask=mask)
        seen = logprob.detach()
        report = {"policy_loss": loss.detach(), "approx_kl": k3(old, seen), "ratio/mean": (seen - old).exp()}
        return TokenLoss(loss, report, seen)

    def kl_loss(self, rollout: Rollout) -> TokenLoss:
        """KL(old || new), per token, from the old policy's samples: its second derivative is the Fisher matrix."""
        rollout = rollout.to(self.policy.device)
        mask, old = rollout.trainable, rollout.known("old_logprob")
        logprob = torch.where(mask, self.policy.evaluate(rollout).logprob, 0.0)
        kl = k3(torch.where(mask, old, 0.0), logprob)
        return TokenLoss(kl, {"kl": kl.detach()})

    def critic_loss(self, rollout: Rollout, target: Float[Tensor, "N A"]) -> TokenLoss:
        """Half the squared error of the values, per token."""
        rollout, target = rollout.to(self.policy.device), target.to(self.policy.device)
        scores = self.policy.evaluate(rollout)
        assert scores.value is not None
        error = value_loss(scores.value, target, mask=rollout.trainable)
        return TokenLoss(error, {"value_loss": error.detach()})

    def surface(self, rollout: Rollout, advantage: Float[Tensor, "N A"]) -> Surface:
        """The rollout as a function of the policy's weights."""
        return Surface(
            self.policy,
            self.optimizer,
            rollout,
            loss=lambda rows: self.loss(rollout[rows], advantage[rows]),
            divergence=lambda rows: self.kl_loss(rollout[rows]),
            few=some_problems(rollout.problem, self.config.fisher_share),
        )

    def _move(self, surface: Surface) -> dict[str, float]:
        """Take the step, or none; returns metrics."""
        start = surface.here()
        gradient, metrics = surface.ascent()
        try:
            found, residual = self._search(surface, start, gradient)
        except BaseException:
            surface.put(start)
            raise
        surface.put(found.weights)
        if self.optimizer.watch is not None and not found.accepted:
            surface.measure(found.weights)  # what was watched last was a step that was not taken
        return metrics | {
            "approx_kl": found.kl,
            "grad_norm": float(gradient.norm()),
            "conjugate_gradient/residual": residual,
            "line_search/accepted": float(found.accepted),
            "line_search/backtracks": float(found.backtracks),
            "line_search/improvement": found.improvement,
        }

    def _search(self, surface: Surface, start: Tensor, gradient: Tensor) -> tuple[Search, float]:
        c = self.config
        step, residual = natural_step(
            start,
            gradient,
            kl=surface.kl,
            kl_gradient=surface.kl_gradient,
            max_kl=c.max_kl,
            damping=c.damping,
            steps=c.conjugate_gradient_steps,
            tolerance=c.conjugate_gradient_tolerance,
        )
        if step is None:
            return Search(start, accepted=False, backtracks=0), residual
        found = line_search(
            start, step, surface.measure, max_kl=c.max_kl, tries=c.line_search_steps, shrink=c.line_search_shrink
        )
        return found, residual

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {"optimizer": self.optimizer.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.optimizer.load(state["optimizer"])


def some_problems(problem: Int[Tensor, "N"], share: float) -> Int[Tensor, "R"]:
    """The rows of the first problems, at least `share` of these; they come in a random order as it is."""
    problems = problem.unique()
    return torch.isin(problem, problems[: math.ceil(share * len(problems))]).nonzero()[:, 0]
