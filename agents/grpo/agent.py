"""GRPO (arXiv 2402.03300, section 4.1), one page.

What differs from the paper: the std is the population's without an epsilon, the loss is a mean over tokens by default
(arXiv 2503.14476 argues why; `optim.aggregation=sequence_mean` is the paper's), and the KL estimator's gradient is the
reverse KL's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from agents.advantages import group_advantages, zero_variance_share
from agents.annotate import annotate, kl_metrics, pay_kl
from agents.grpo.config import GRPOConfig
from agents.kl import kl_penalty
from agents.losses import clipped_surrogate, entropy_bonus, sampler_correction, surrogate_report
from agents.optim import Optimizer, TokenLoss
from agents.policy import Policy
from agents.reference import load_reference, reference_state, renew
from agents.rollout import Rollout


class GRPO:
    """Learns from groups: a completion is good if it is better than the others of its prompt."""

    def __init__(
        self, config: GRPOConfig, policy: Policy, optimizer: Optimizer, reference: Policy | None = None
    ) -> None:
        self.config, self.policy, self.optimizer, self.reference = config, policy, optimizer, reference

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns metrics."""
        c = self.config
        rollout = annotate(rollout, self.policy, self.reference, c.optim, exact_kl=c.kl_coef > 0 and c.kl_in == "both")
        advantage = self.advantages(rollout)
        learned = self.optimizer.descend(
            lambda rows: self.loss(rollout[rows], advantage[rows]),
            rollout,
            skip=None if self._penalizes or c.entropy_coef else advantage == 0,
            max_tokens=rollout.mask.shape[1],
        )
        if self.reference is not None and c.reference_every and self.optimizer.num_updates % c.reference_every == 0:
            renew(self.reference, self.policy)
        flat = float(zero_variance_share(self._shaped(rollout).returns, rollout.problem, rollout.valid))
        return {**learned, **kl_metrics(rollout), "groups/zero_variance_share": flat}

    def advantages(self, rollout: Rollout) -> Float[Tensor, "N"]:
        """How much better each completion is than the others of its prompt, from the shaped rewards."""
        returns = self._shaped(rollout).returns
        return group_advantages(returns, rollout.problem, scale=self.config.scale_advantages, valid=rollout.valid)

    def loss(self, rollout: Rollout, advantage: Float[Tensor, "N"]) -> TokenLoss:
        """The negated clipped objective and, with `kl_in=loss`, the KL to the reference, per token."""
        c = self.config
        rollout, advantage = rollout.to(self.policy.device), advantage.to(self.policy.device)
        scores = self.policy.evaluate(rollout, with_entropy=c.entropy_coef > 0, kl_to=self._exact_to)
        logprob = scores.logprob
        old = logprob.detach() if rollout.old_logprob is None else rollout.old_logprob
        mask, low, high = rollout.mask, c.clip_low, c.clip_high
        loss = clipped_surrogate(logprob, old, advantage, clip_low=low, clip_high=high, mask=mask)
        report = surrogate_report(logprob, old, advantage, mask, clip_low=low, clip_high=high)
        if c.sampler_correction is not None:
            loss = loss * sampler_correction(old, rollout.sampled_logprob, cap=c.sampler_correction, mask=mask)
        report["policy_loss"] = loss.detach()
        if self._penalizes:
            reference = rollout.known("reference_logprob")
            kl = kl_penalty(logprob, reference, c.kl_kind, old_logprob=old, exact=scores.kl, mask=mask)
            loss = loss + c.kl_coef * kl
            report["kl/loss"] = kl.detach()
        if scores.entropy is not None:
            loss = loss + entropy_bonus(scores.entropy, coefficient=c.entropy_coef, mask=mask)
        return TokenLoss(loss, report, logprob.detach())

    @property
    def _penalizes(self) -> bool:
        return self.reference is not None and self.config.kl_in != "reward"

    @property
    def _exact_to(self) -> Policy | None:
        return self.reference if self._penalizes and self.config.kl_kind == "full" else None

    def _shaped(self, rollout: Rollout) -> Rollout:
        if self.reference is None or self.config.kl_in == "loss":
            return rollout
        return pay_kl(rollout, self.config.kl_coef)

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        reference = reference_state(self.reference, self.config.reference_every)
        return {"optimizer": self.optimizer.state(), "reference": reference}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.optimizer.load(state["optimizer"])
        load_reference(self.reference, state.get("reference"))
