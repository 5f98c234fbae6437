"""PPO (arXiv 1707.06347) on tokens, in the four phases of an iteration.

`collect` has run the old policy, frozen, and kept its log-probabilities (1, 2); here advantages and value targets are
made (3), and several epochs of minibatches descend (4); then old = new. The KL to a reference policy is paid per token
in the reward (arXiv 2203.02155) unless asked for elsewhere. The value loss and the entropy bonus stand in one loss with
the objective; actor and critic have learning rates of their own.

In files of their own: `objective` (clipped, or with a KL penalty), `values` (the critic's scale), and, shared with
others, `agents.credit` (truncation, what is paid, GAE), `agents.kl` and `agents.entropy` (who sets the weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from agents import entropy
from agents.advantages import whiten
from agents.annotate import annotate, kl_metrics, pay_kl
from agents.credit import bounded, counted, credit, critic_metrics, penalized, whitened
from agents.entropy import EntropyControl
from agents.kl import Controller, k3, kl_penalty
from agents.losses import entropy_bonus, masked_mean, sampler_correction, value_loss
from agents.optim import Optimizer, TokenLoss
from agents.policy import Policy
from agents.ppo import values
from agents.ppo.config import PPOConfig
from agents.ppo.objective import objective
from agents.ppo.values import ValueScale
from agents.reference import load_reference, reference_state, renew_when_due
from agents.rollout import Lesson, Rollout


class PPO:
    """Learns from the difference between what a critic expected and what came."""

    def __init__(
        self, config: PPOConfig, policy: Policy, optimizer: Optimizer, reference: Policy | None = None
    ) -> None:
        self.config, self.policy, self.optimizer, self.reference = config, policy, optimizer, reference
        self.lesson: Lesson | None = None
        self.kl: Controller = config.controller()
        self.penalty: Controller | None = config.penalty()
        self.entropy: EntropyControl = config.entropy()
        self.values: ValueScale | None = ValueScale() if config.normalize_values else None

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns metrics."""
        c = self.config
        rollout = annotate(rollout, self.policy, self.reference, c.optim, exact_kl=c.kl_in == "both")
        rollout = self._in_reward_units(counted(rollout, c.truncation))
        advantage, target = self.advantages(rollout)
        self._rescale(target, rollout)
        warming_up = self.optimizer.num_updates < c.critic_warmup
        self.lesson = Lesson(rollout, advantage)
        learned = self.optimizer.descend(
            lambda rows: self.loss(rollout[rows], advantage[rows], target[rows]),
            rollout,
            max_tokens=rollout.max_tokens,
            stop=self._too_far,
            hold_actor=warming_up,
        )
        metrics = {**learned, **kl_metrics(rollout), **critic_metrics(rollout, target), **self._weights()}
        if rollout.trainable.any() and not warming_up:  # else nothing has moved that could be adapted to
            self._adapt(metrics, rollout)
        renew_when_due(self.reference, self.policy, every=c.reference_every, num_updates=self.optimizer.num_updates)
        return metrics

    def _weights(self) -> dict[str, float]:
        """What the controllers have set, for the log."""
        metrics = {"kl_coef": self.kl.beta}
        if self.penalty is not None:
            metrics["penalty_coef"] = self.penalty.beta
        if self.config.entropy_target is not None:
            metrics["entropy_coef"] = self.entropy.weight
        if self.values is not None:
            metrics |= {"value/target_mean": self.values.mean, "value/target_std": self.values.std}
        return metrics

    def _adapt(self, metrics: dict[str, float], rollout: Rollout) -> None:
        if self.reference is not None:
            self.kl = self.kl.update(metrics["kl/row"], len(rollout))
        if self.penalty is not None:
            metrics["approx_kl/after"] = self._kl_from_old(rollout)
            self.penalty = self.penalty.update(metrics["approx_kl/after"], len(rollout))
        if self.entropy.wants_entropy:
            self.entropy = self.entropy.update(metrics["entropy/update"])

    def _kl_from_old(self, rollout: Rollout) -> float:
        """KL(old || new) in nats per token, now that all steps are taken: `approx_kl`, a mean over the way, began
        at 0."""
        new = self.policy.score(rollout, microbatch_tokens=self.config.optim.microbatch_tokens).logprob
        return float(masked_mean(k3(rollout.known("old_logprob"), new), rollout.trainable))

    def _in_reward_units(self, rollout: Rollout) -> Rollout:
        """The critic's values as rewards; before its first rollout the scale is that of what the rollout was paid."""
        if self.values is None:
            return rollout
        if not self.values.weight:
            returns = self._paid(rollout).returns[:, None].expand_as(rollout.mask)
            self.values = self.values.update(returns, rollout.trainable)
        return values.in_reward_units(rollout, self.values)

    def _rescale(self, target: Tensor, rollout: Rollout) -> None:
        if self.values is None:
            return
        before, self.values = self.values, self.values.update(target, rollout.trainable)
        assert self.policy.value_head is not None
        values.rewrite(self.policy.value_head, before, self.values)

    def advantages(self, rollout: Rollout) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A"]]:
        """Advantages (whitened if asked) and value targets A + V, from what is paid in the end."""
        c, rollout = self.config, counted(rollout, self.config.truncation)
        advantage, target = credit(self._paid(rollout), gamma=c.gamma, lam=c.lam, truncation=c.truncation)
        return (whiten(advantage, rollout.trainable) if c.whiten_advantages else advantage), target

    def _paid(self, rollout: Rollout) -> Rollout:
        """The environment's rewards, clipped, less the penalty for being cut, less the KL, on a scale of their own."""
        c = self.config
        rollout = penalized(bounded(rollout, c.reward_clip), c.truncation_penalty)
        if self.reference is not None and c.kl_in != "loss":
            rollout = pay_kl(rollout, self.kl.beta)
        return whitened(rollout, c.whiten_rewards)

    def loss(self, rollout: Rollout, advantage: Float[Tensor, "N A"], target: Float[Tensor, "N A"]) -> TokenLoss:
        """Negated objective + value_coef * value loss - entropy weight * entropy, per token."""
        c, device = self.config, self.policy.device
        rollout, advantage, target = counted(rollout, c.truncation).to(device), advantage.to(device), target.to(device)
        mask, old = rollout.trainable, rollout.known("old_logprob")
        penalizes = self.reference is not None and c.kl_in != "reward"
        exact_to = self.reference if penalizes and c.kl_kind == "full" else None
        scores = self.policy.evaluate(rollout, with_entropy=self.entropy.wants_entropy, kl_to=exact_to)
        assert scores.value is not None
        loss, report = objective(c, scores.logprob, old, advantage, mask, penalty=self.penalty)
        if c.sampler_correction is not None:
            cap = c.sampler_correction
            loss = loss * sampler_correction(old, rollout.sampled_logprob, cap=cap, mask=mask)
        old_value = rollout.value
        if self.values is not None:
            target = self.values.normal(target)
            old_value = None if old_value is None else self.values.normal(old_value)
        error = value_loss(scores.value, target, old_value=old_value, clip=c.value_clip, kind=c.value_loss, mask=mask)
        report |= {"policy_loss": loss.detach(), "value_loss": error.detach()}
        loss = loss + c.value_coef * error
        if scores.entropy is not None:
            loss = loss + entropy_bonus(scores.entropy, coefficient=self.entropy.weight, mask=mask)
            report["entropy/update"] = scores.entropy.detach()
        if penalizes:
            reference = rollout.known("reference_logprob")
            kl = kl_penalty(scores.logprob, reference, c.kl_kind, old_logprob=old, exact=scores.kl, mask=mask)
            loss = loss + self.kl.beta * kl
            report["kl/loss"] = kl.detach()
        if rollout.reference_logprob is not None:
            report["kl/reference_now"] = k3(scores.logprob.detach(), rollout.reference_logprob)
        return TokenLoss(loss, report, scores.logprob.detach())

    def _too_far(self, means: Mapping[str, float]) -> bool:
        c = self.config
        limits = (("approx_kl", c.max_kl_old), ("kl/reference_now", c.max_kl_reference))
        return any(limit is not None and means.get(name, 0.0) > limit for name, limit in limits)

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {
            "optimizer": self.optimizer.state(),
            "kl_beta": self.kl.beta,
            "penalty_beta": None if self.penalty is None else self.penalty.beta,
            "entropy": entropy.control_state(self.entropy),
            "values": None if self.values is None else self.values.state(),
            "reference": reference_state(self.reference, self.config.reference_every),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.optimizer.load(state["optimizer"])
        self.kl = replace(self.kl, beta=state["kl_beta"])  # type: ignore[type-var]
        if self.penalty is not None:
            self.penalty = replace(self.penalty, beta=state["penalty_beta"])  # type: ignore[type-var]
        self.entropy = entropy.restored(self.entropy, state.get("entropy", {}))
        self.values = values.restored(self.values, state.get("values"))
        load_reference(self.reference, state.get("reference"))
