"""GRPO (arXiv 2402.03300, section 4.1), one page, and the family that grew from it.

What differs from the paper: the std is the population's without an epsilon, the loss is a mean over tokens by default
(arXiv 2503.14476 argues why; `optim.aggregation=sequence_mean` is the paper's), and the KL estimator's gradient is the
reverse KL's. Which advantages there are says `credit`, which objectives `objective`, which combinations of them make
sense `config`; `conf/experiment` has those that have names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from agents import entropy
from agents.advantages import zero_variance_share
from agents.annotate import annotate, kl_metrics, pay_kl
from agents.credit import counted
from agents.entropy import EntropyControl
from agents.grpo.config import GRPOConfig
from agents.grpo.credit import credit, teaches_nothing
from agents.grpo.objective import objective
from agents.kl import kl_penalty
from agents.losses import entropy_bonus, sampler_correction
from agents.optim import Optimizer, TokenLoss
from agents.policy import Policy
from agents.reference import load_reference, reference_state, renew_when_due
from agents.rollout import Lesson, Rollout


class GRPO:
    """Learns from groups: a completion is good if it is better than the others of its prompt."""

    def __init__(
        self, config: GRPOConfig, policy: Policy, optimizer: Optimizer, reference: Policy | None = None
    ) -> None:
        self.config, self.policy, self.optimizer, self.reference = config, policy, optimizer, reference
        self.lesson: Lesson | None = None
        self.entropy: EntropyControl = config.entropy()

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from one rollout; returns metrics."""
        c = self.config
        rollout = annotate(rollout, self.policy, self.reference, c.optim, exact_kl=c.kl_in == "both")
        advantage = self.advantages(rollout)
        self.lesson = Lesson(rollout, advantage)
        learned = self.optimizer.descend(
            lambda rows: self.loss(rollout[rows], advantage[rows]),
            counted(rollout, c.truncation),
            skip=None if self._penalizes or self.entropy.wants_entropy else teaches_nothing(advantage),
            max_tokens=rollout.max_tokens,
        )
        renew_when_due(self.reference, self.policy, every=c.reference_every, num_updates=self.optimizer.num_updates)
        flat = float(zero_variance_share(rollout.returns, rollout.problem, rollout.valid))
        metrics = {**learned, **kl_metrics(rollout), "groups/zero_variance_share": flat}
        if c.entropy_target is not None:
            metrics["entropy_coef"] = self.entropy.weight
        if "entropy/update" in learned:  # not where nothing could be learned from
            self.entropy = self.entropy.update(learned["entropy/update"])
        return metrics

    def advantages(self, rollout: Rollout) -> Float[Tensor, "N"] | Float[Tensor, "N A"]:
        """How much better each completion, or token, is than what it is compared with, from the shaped rewards."""
        return credit(self.config, self._shaped(rollout))

    def loss(self, rollout: Rollout, advantage: Float[Tensor, "N"] | Float[Tensor, "N A"]) -> TokenLoss:
        """The negated objective, the KL to the reference where it is in the loss, less the entropy bonus, per token."""
        c = self.config
        rollout, advantage = rollout.to(self.policy.device), advantage.to(self.policy.device)
        scores = self.policy.evaluate(rollout, with_entropy=self.entropy.wants_entropy, kl_to=self._exact_to)
        logprob = scores.logprob
        old = logprob.detach() if rollout.old_logprob is None else rollout.old_logprob
        mask = rollout.mask
        loss, report = objective(c, logprob, old, advantage, mask)
        if c.sampler_correction is not None:
            loss = loss * sampler_correction(old, rollout.sampled_logprob, cap=c.sampler_correction, mask=mask)
        report["policy_loss"] = loss.detach()
        if self._penalizes:
            reference = rollout.known("reference_logprob")
            kl = kl_penalty(logprob, reference, c.kl_kind, old_logprob=old, exact=scores.kl, mask=mask)
            loss = loss + c.kl_coef * kl
            report["kl/loss"] = kl.detach()
        if scores.entropy is not None:
            loss = loss + entropy_bonus(scores.entropy, coefficient=self.entropy.weight, mask=mask)
            report["entropy/update"] = scores.entropy.detach()
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
        return {
            "optimizer": self.optimizer.state(),
            "entropy": entropy.control_state(self.entropy),
            "reference": reference,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.optimizer.load(state["optimizer"])
        self.entropy = entropy.restored(self.entropy, state.get("entropy", {}))
        load_reference(self.reference, state.get("reference"))
