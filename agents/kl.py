"""KL to a reference policy: per-token estimators, what may stand in a loss, what is paid as reward, and who sets beta.

All estimates are of the reverse divergence KL(policy || reference) at one token, from samples of the policy. With
`d = logprob - reference_logprob` (John Schulman, "Approximating KL divergence"):

    k1  d                   unbiased, noisy, may be negative
    k2  d^2 / 2             biased, gradient of the reverse KL
    k3  e^-d - 1 + d        unbiased, never negative, gradient of the *forward* KL
    ratio * k3              unbiased, gradient of the reverse KL, for samples of an older policy too

Beside them stands `full`, the exact KL over the vocabulary (`agents.policy.vocabulary_kl`): no noise, right in both.

An estimator that is right in value can be wrong in gradient (arXiv 2510.01555), and the other way round, and which is
right depends on the place. In a loss k1 has no gradient. In a reward, where nothing is differentiated, only k1 is
right: the others' own slope is missing. Differentiated per token, every one leaves out how a token changes the *later*
states' KL; the penalty in the reward keeps that, through the advantages, and `full` may stand in both: the loss has a
state's own KL, the reward that of the states behind it. `python -m agents.verify` sums all of this exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

KINDS = ("k2", "k3", "weighted_k3")
"""Estimators of one token that may stand in a loss."""
PLACES = {"reward": ("k1",), "loss": (*KINDS, "full"), "both": ("full",)}
"""Where the KL may act, and which estimators are right there."""
REASONS = {
    ("loss", "k1"): "its gradient in a loss is zero in expectation, so the reference would have no effect but noise; "
    "choose weighted_k3, k2 or full, or agent.kl_in=reward",
    ("reward", "full"): "a state's exact KL does not depend on the token that is chosen there, so the reward alone "
    "leaves its own gradient out; choose agent.kl_in=loss or agent.kl_in=both",
    ("both", "k1"): "it would be counted twice in the reward and not at all in the loss; choose agent.kl_in=reward",
}
IN_REWARD = "nothing is differentiated in a reward, and what is left of its gradient is not the KL's; choose k1"
IN_BOTH = "loss and reward would both count it; only full is made of two parts"

MAX_LOG_RATIO = 20.0
"""Exponents are cut off here: `exp` would overflow, and an infinity times a zero gradient is NaN."""


def placed_estimator(place: str, kind: str | None) -> str:
    """The estimator that stands in `place` (`reward`, `loss` or `both`); None: k1, weighted_k3, full.

    Raises `ValueError` with the reason for one that would give the wrong gradient there.
    """
    if place not in PLACES:
        raise ValueError(f"agent.kl_in must be one of {', '.join(PLACES)}, got {place!r}")
    known = ("k1", *KINDS, "full")
    if kind is None:
        return {"reward": "k1", "loss": "weighted_k3", "both": "full"}[place]
    if kind not in known:
        raise ValueError(f"agent.kl_estimator must be one of {', '.join(known)} or null, got {kind!r}")
    if kind not in PLACES[place]:
        reason = REASONS.get((place, kind), IN_REWARD if place == "reward" else IN_BOTH)
        raise ValueError(f"agent.kl_estimator must not be {kind} with agent.kl_in={place}: {reason}")
    return kind


def check_renewal(every: int | None, kl_coef: float) -> None:
    """Raise `ValueError` for a reference that is to be renewed every `every` iterations and is not there."""
    if every is None:
        return
    if every < 1:
        raise ValueError(f"agent.reference_every must be at least 1 or null, got {every}")
    if not kl_coef > 0:
        raise ValueError(f"agent.reference_every={every} needs a reference policy: set agent.kl_coef above 0")


def k1(logprob: Float[Tensor, "*shape"], reference_logprob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`d`: for reward and reports, never for a loss."""
    return logprob - reference_logprob


def k2(logprob: Float[Tensor, "*shape"], reference_logprob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`d^2 / 2`: right in gradient, biased in value."""
    return (logprob - reference_logprob).square() / 2


def k3(logprob: Float[Tensor, "*shape"], reference_logprob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`e^-d - 1 + d`: right in value; its gradient pulls towards the forward KL."""
    d = logprob - reference_logprob
    return (-d).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).expm1() + d


def weighted_k3(
    logprob: Float[Tensor, "*shape"],
    reference_logprob: Float[Tensor, "*shape"],
    old_logprob: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """`ratio * k3` with `ratio = exp(logprob - old_logprob)`: right in value and gradient.

    `old_logprob` is the log-probability under the policy that chose the token; with one update per rollout
    `logprob.detach()`. The gradient flows through the ratio, which is what makes it right.
    """
    log_ratio = logprob - old_logprob.detach()
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * k3(logprob, reference_logprob)


def kl_penalty(
    logprob: Float[Tensor, "*shape"],
    reference_logprob: Float[Tensor, "*shape"],
    kind: str = "weighted_k3",
    *,
    old_logprob: Float[Tensor, "*shape"] | None = None,
    exact: Float[Tensor, "*shape"] | None = None,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The KL term of a loss, per token, to be multiplied by beta and added.

    - `weighted_k3` (the default): the reverse KL's gradient, for samples of an older policy too. `old_logprob` None
      means the policy being updated itself.
    - `k2`: the reverse KL's gradient as long as the samples are the policy's own (the first step of a rollout).
    - `k3`: the *forward* KL's gradient, `E[grad] = policy - reference` in the logits; what GRPO's paper writes
      (arXiv 2402.03300, equation 4). For those who want that.
    - `full`: `exact`, which carries the gradient by itself.

    Where `mask` is False the term is 0 with no gradient, whatever stands there. Only `logprob` and `exact` carry a
    gradient. Raises `ValueError` for an unknown kind, for `k1`, whose expected gradient is zero, and for `full` without
    `exact`.
    """
    if kind == "k1":
        raise ValueError(
            "kind must not be k1 in a loss: the gradient of logprob - reference_logprob is the score function, whose "
            "expectation is zero, so the reference would have no effect but noise; pay k1 in the reward "
            "(`shaped_reward`), or choose k2, weighted_k3 or full"
        )
    if kind not in PLACES["loss"]:
        raise ValueError(f"kind must be one of {', '.join(PLACES['loss'])}, got {kind!r}")
    if kind == "full":
        if exact is None:
            raise ValueError("kind=full needs the exact KL (`Policy.evaluate(..., kl_to=reference)`)")
        return exact if mask is None else torch.where(mask, exact, 0.0)
    old_logprob = logprob.detach() if old_logprob is None else old_logprob
    if mask is not None:
        logprob, reference_logprob, old_logprob = (
            torch.where(mask, x, 0.0) for x in (logprob, reference_logprob, old_logprob)
        )
    reference_logprob = reference_logprob.detach()
    if kind == "weighted_k3":
        return weighted_k3(logprob, reference_logprob, old_logprob)
    return (k2 if kind == "k2" else k3)(logprob, reference_logprob)


@torch.no_grad()
def shaped_reward(
    reward: Float[Tensor, "N A"], kl: Float[Tensor, "N A"], mask: Bool[Tensor, "N A"], *, beta: float
) -> Float[Tensor, "N A"]:
    """The reward less `beta * kl` on every policy token; 0 outside `mask`.

    `kl` is `k1` of the policy that chose the tokens, or the exact one of its states. Source: arXiv 2203.02155
    (InstructGPT), equation 2, paid token by token as in arXiv 1909.08593.

    >>> one = torch.ones(1, 1)
    >>> shaped_reward(0.8 * one, 0.05 * one, one.bool(), beta=6.0)
    tensor([[0.5000]])
    """
    return torch.where(mask, reward - beta * kl, 0.0)


@runtime_checkable
class Controller(Protocol):
    """Who sets beta: a frozen record, replaced by its own `update` after every rollout. Saved as its `beta`."""

    @property
    def beta(self) -> float: ...
    def update(self, kl: float, num_rows: int) -> Controller: ...


@dataclass(frozen=True, slots=True)
class FixedKL:
    """Beta stays as it is."""

    beta: float

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ValueError(f"beta must be at least 0, got {self.beta}")

    def update(self, kl: float, num_rows: int) -> FixedKL:
        return self


@dataclass(frozen=True, slots=True)
class HorizonKL:
    """`beta <- beta (1 + clip(kl / target - 1, -0.2, 0.2) num_rows / horizon)`: arXiv 1909.08593, section 2.2."""

    beta: float
    target: float
    """KL in nats per row or per token, in the unit of what `update` is given."""
    horizon: float = 10_000
    """In rows: the number of episodes over which beta may change by about a fifth."""

    def __post_init__(self) -> None:
        _check_adaptive(self.beta, self.target)
        if not self.horizon > 0:
            raise ValueError(f"horizon must be positive, got {self.horizon}")

    def update(self, kl: float, num_rows: int) -> HorizonKL:
        """The record for the next rollout, after one of `num_rows` rows. Raises `ValueError` for a KL that is not
        finite, and for a horizon so short (a fifth of `num_rows`) that beta would reach 0.
        """
        _check_kl(kl)
        if num_rows >= 5 * self.horizon:
            raise ValueError(f"horizon must be more than a fifth of the {num_rows} rows a rollout, got {self.horizon}")
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return replace(self, beta=self.beta * (1 + error * num_rows / self.horizon))


@dataclass(frozen=True, slots=True)
class HalvingKL:
    """Beta is halved when KL < target / 1.5 and doubled when KL > 1.5 target: arXiv 1707.06347, section 4."""

    beta: float
    target: float
    """KL in nats per row or per token, in the unit of what `update` is given."""

    def __post_init__(self) -> None:
        _check_adaptive(self.beta, self.target)

    def update(self, kl: float, num_rows: int) -> HalvingKL:
        """The record for the next rollout. Raises `ValueError` for a KL that is not finite."""
        _check_kl(kl)
        factor = 0.5 if kl < self.target / 1.5 else 2.0 if kl > self.target * 1.5 else 1.0
        return replace(self, beta=self.beta * factor)


def _check_adaptive(beta: float, target: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be positive to adapt (0 stays 0), got {beta}")
    if not target > 0:
        raise ValueError(f"target must be positive, got {target}")


def _check_kl(kl: float) -> None:
    if not math.isfinite(kl):
        raise ValueError(f"kl must be finite, got {kl}")
