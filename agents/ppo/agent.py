"""PPO (arXiv 1707.06347) on tokens, in the four phases of an iteration.

`collect` has run the old policy, frozen, and kept its log-probabilities (1, 2); here advantages and value targets are
made (3), and several epochs of minibatches descend (4); then old = new. The KL to a reference policy is paid per token
in the reward (arXiv 2203.02155) unless asked for elsewhere. The value loss and the entropy bonus stand in one loss with
the objective; actor and critic have learning rates of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from agents.advantages import explained_variance, gae, whiten
from agents.annotate import annotate, kl_metrics, pay_kl
from agents.kl import Controller, HalvingKL, k3, kl_penalty
from agents.losses import (
    clipped_surrogate,
    entropy_bonus,
    masked_mean,
    penalty_surrogate,
    sampler_correction,
    surrogate_report,
    value_loss,
)
from agents.optim import Optimizer, TokenLoss
from agents.policy import Policy
from agents.ppo.config import PPOConfig
from agents.reference import load_reference, reference_state, renew
from agents.rollout import Rollout


class PPO:
    """Learns from the difference between what a critic expected and what came."""

    def __init__(
        self, config: PPOConfig, policy: Policy, optimizer: Optimizer, reference: Policy | None = None
    ) -> None:
        self.config, self.policy, self.optimizer, self.reference = config, policy, optimizer, reference
        self.kl: Controller = config.controller()
        self.penalty = HalvingKL(config.penalty_coef, config.penalty_target) if config.objective == "penalty" else None

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns metrics."""
        c = self.config
        rollout = annotate(rollout, self.policy, self.reference, c.optim, exact_kl=c.kl_coef > 0 and c.kl_in == "both")
        advantage, target = self.advantages(rollout)
        learned = self.optimizer.descend(
            lambda rows: self.loss(rollout[rows], advantage[rows], target[rows]),
            rollout,
            max_tokens=rollout.mask.shape[1],
            stop=self._too_far,
        )
        metrics = {**learned, **kl_metrics(rollout), **self._critic_metrics(rollout, target), "kl_coef": self.kl.beta}
        if self.penalty is not None:
            metrics["penalty_coef"] = self.penalty.beta
        if rollout.trainable.any():  # where every grader failed there is no KL to adapt to
            self._adapt(metrics, len(rollout))
        if self.reference is not None and c.reference_every and self.optimizer.num_updates % c.reference_every == 0:
            renew(self.reference, self.policy)
        return metrics

    def _adapt(self, metrics: Mapping[str, float], num_rows: int) -> None:
        if self.reference is not None:
            self.kl = self.kl.update(metrics["kl/row"], num_rows)
        if self.penalty is not None:
            self.penalty = self.penalty.update(metrics["approx_kl"], num_rows)

    def advantages(self, rollout: Rollout) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A"]]:
        """Advantages (whitened if asked) and value targets A + V, from the shaped rewards."""
        c, mask = self.config, rollout.trainable
        paid = self.reference is not None and c.kl_in != "loss"
        reward = pay_kl(rollout, self.kl.beta).reward if paid else rollout.reward
        value, bootstraps = rollout.known("value"), rollout.truncated & (c.truncation == "bootstrap")
        final = torch.where(bootstraps, rollout.known("final_value"), 0.0)
        advantage = gae(reward, value, mask, gamma=c.gamma, lam=c.lam, final_value=final)
        target = torch.where(mask, advantage + value, 0.0)
        return (whiten(advantage, mask) if c.whiten_advantages else advantage), target

    def loss(self, rollout: Rollout, advantage: Float[Tensor, "N A"], target: Float[Tensor, "N A"]) -> TokenLoss:
        """Negated objective + value_coef * value loss - entropy_coef * entropy, per token."""
        c, device = self.config, self.policy.device
        rollout, advantage, target = rollout.to(device), advantage.to(device), target.to(device)
        mask, old = rollout.mask, rollout.known("old_logprob")
        penalizes = self.reference is not None and c.kl_in != "reward"
        exact_to = self.reference if penalizes and c.kl_kind == "full" else None
        scores = self.policy.evaluate(rollout, with_entropy=c.entropy_coef > 0, kl_to=exact_to)
        assert scores.value is not None
        objective, report = self._objective(scores.logprob, old, advantage, mask)
        if c.sampler_correction is not None:
            cap = c.sampler_correction
            objective = objective * sampler_correction(old, rollout.sampled_logprob, cap=cap, mask=mask)
        error = value_loss(
            scores.value, target, old_value=rollout.value, clip=c.value_clip, kind=c.value_loss, mask=mask
        )
        loss = objective + c.value_coef * error
        if scores.entropy is not None:
            loss = loss + entropy_bonus(scores.entropy, coefficient=c.entropy_coef, mask=mask)
        report |= {"policy_loss": objective.detach(), "value_loss": error.detach()}
        if penalizes:
            reference = rollout.known("reference_logprob")
            kl = kl_penalty(scores.logprob, reference, c.kl_kind, old_logprob=old, exact=scores.kl, mask=mask)
            loss = loss + self.kl.beta * kl
            report["kl/loss"] = kl.detach()
        if rollout.reference_logprob is not None:
            report["kl/reference_now"] = k3(scores.logprob.detach(), rollout.reference_logprob)
        return TokenLoss(loss, report, scores.logprob.detach())

    def _objective(
        self, logprob: Tensor, old: Tensor, advantage: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        report = surrogate_report(logprob, old, advantage, mask, clip_low=c.clip_low, clip_high=c.clip_high)
        if self.penalty is None:
            return clipped_surrogate(
                logprob, old, advantage, clip_low=c.clip_low, clip_high=c.clip_high, mask=mask
            ), report
        # k3 with the roles exchanged is KL(old || new) from the old policy's samples: right in value and in gradient.
        kl = torch.where(mask, k3(old, torch.where(mask, logprob, 0.0)), 0.0)
        return penalty_surrogate(logprob, old, advantage, mask=mask) + self.penalty.beta * kl, report

    def _too_far(self, means: Mapping[str, float]) -> bool:
        c = self.config
        limits = (("approx_kl", c.max_kl_old), ("kl/reference_now", c.max_kl_reference))
        return any(limit is not None and means.get(name, 0.0) > limit for name, limit in limits)

    def _critic_metrics(self, rollout: Rollout, target: Tensor) -> dict[str, float]:
        value, mask = rollout.known("value"), rollout.trainable
        explained = explained_variance(value, target, mask)
        metrics = {"value/mean": float(masked_mean(value, mask))}
        return metrics if explained.isnan() else metrics | {"explained_variance": float(explained)}

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        penalty = None if self.penalty is None else self.penalty.beta
        reference = reference_state(self.reference, self.config.reference_every)
        return {
            "optimizer": self.optimizer.state(),
            "kl_beta": self.kl.beta,
            "penalty_beta": penalty,
            "reference": reference,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.optimizer.load(state["optimizer"])
        self.kl = replace(self.kl, beta=state["kl_beta"])  # type: ignore[type-var]
        if self.penalty is not None:
            self.penalty = replace(self.penalty, beta=state["penalty_beta"])
        load_reference(self.reference, state.get("reference"))
