"""Losses, one number a token; nothing here is summed or averaged.

A loss function returns what is to be *minimized* at every token. `token_weights` turns an aggregation into one
weight a token, and the loss of a minibatch is `weighted_sum(loss, weight)`: computed over the whole minibatch, so
that no split into microbatches and no padding can change it.

Every loss takes an optional `mask`: where it is False the loss is exactly 0 and so is its gradient, whatever the
arguments hold there (NaN times a zero weight is NaN, in the gradient too). Only the first argument carries a
gradient; the others are constants of the objective and are detached.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

AGGREGATIONS = ("token_mean", "sequence_mean", "constant")

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut off here: `exp` would overflow, and an infinity times a zero gradient is NaN."""


def clipped_surrogate(
    logprob: Float[Tensor, "*shape"],
    old_logprob: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*#shape"] | Float[Tensor, "N"],
    *,
    clip_low: float,
    clip_high: float,
    ratio_cap: float | None = None,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The negated clipped objective: `-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A)`.

    `advantage` is one a token or one a row (`N` or `N 1`). With a `ratio_cap` it is `min(ratio, ratio_cap)` that takes
    part: a negative advantage, which the clip leaves free above, then costs at most `ratio_cap` times as much. Raises
    `ValueError` unless `0 <= clip_low <= 1`, `clip_high >= 0` (both are distances from 1, never absolute bounds) and
    `ratio_cap > 1 + clip_high` (this one is a ratio).

    Source: arXiv 1707.06347 (PPO), equation 7; two distances as in arXiv 2503.14476 (DAPO), equation 10; the cap is
    arXiv 1912.09729's dual clip (equation 5, c) and arXiv 2505.07291's two-sided clip (equation 3, delta), which are
    the same.

    >>> clipped_surrogate(*torch.tensor([[-1.8], [-2.1], [0.2]]), clip_low=0.2, clip_high=0.2)
    tensor([-0.2400])
    """
    _check_clip(clip_low, clip_high)
    if ratio_cap is not None and not ratio_cap > 1 + clip_high:
        raise ValueError(f"ratio_cap must be above 1 + clip_high = {1 + clip_high:g} (it is a ratio), got {ratio_cap}")
    ratio, advantage = _ratio_and_advantage(logprob, old_logprob, advantage, mask)
    if ratio_cap is not None:
        ratio = ratio.clamp(max=ratio_cap)
    return _keep(mask, -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage))


def penalty_surrogate(
    logprob: Float[Tensor, "*shape"],
    old_logprob: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*#shape"] | Float[Tensor, "N"],
    *,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The negated objective without a clip, `-ratio A`, to which a KL penalty is added.

    `advantage` as in `clipped_surrogate`. Source: arXiv 1707.06347, equation 8, first term.
    """
    ratio, advantage = _ratio_and_advantage(logprob, old_logprob, advantage, mask)
    return _keep(mask, -ratio * advantage)


@torch.no_grad()
def sampler_correction(
    old_logprob: Float[Tensor, "*shape"],
    sampled_logprob: Float[Tensor, "*shape"],
    *,
    cap: float,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The weight `min(exp(old - sampled), cap)` of a token that a sampler of other numerics chose.

    The objective is an expectation under the old policy as training computes it; what was drawn comes from the
    sampler's rounding of it. Raises `ValueError` unless `cap` is at least 1. Source: truncated importance sampling,
    Ionides 2008; for samplers of other numerics see arXiv 2510.26788. Here token by token.

    >>> sampler_correction(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -3.0]), cap=2.0)
    tensor([1., 2.])
    """
    if not cap >= 1:
        raise ValueError(f"sampler_correction must be at least 1 (it is the largest weight), got {cap}")
    log_ratio = _keep(mask, old_logprob) - _keep(mask, sampled_logprob)
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=cap)


def value_loss(
    value: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    *,
    old_value: Float[Tensor, "*shape"] | None = None,
    clip: float | None = None,
    kind: str = "squared",
    delta: float = 1.0,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The critic's loss: half the squared error, or Huber's, clipped on demand.

    `huber` is `e^2 / 2` up to `|e| = delta` and `delta (|e| - delta / 2)` beyond. With `clip` the loss is the larger
    of the plain one and that of the value kept within `clip` of `old_value`. Raises `ValueError` for an unknown
    `kind`, a `clip` without `old_value`, a `clip` or `delta` that is not positive.

    Source: the OpenAI baselines' PPO2 (the clip is not in the paper), with the factor 1/2 as there.
    """
    if kind not in ("squared", "huber"):
        raise ValueError(f"kind must be squared or huber, got {kind!r}")
    if delta <= 0:
        raise ValueError(f"delta must be positive, got {delta}")
    if clip is not None and clip <= 0:
        raise ValueError(f"clip must be positive or None, got {clip}")
    value, target = _keep(mask, value), _keep(mask, target.detach())
    loss = _error_loss(value - target, kind, delta)
    if clip is not None:
        if old_value is None:
            raise ValueError(f"clip={clip} needs old_value, the value at collection")
        old = _keep(mask, old_value.detach())
        loss = torch.maximum(loss, _error_loss(old + (value - old).clamp(-clip, clip) - target, kind, delta))
    return _keep(mask, loss)


def entropy_bonus(
    entropy: Float[Tensor, "*shape"], *, coefficient: float, mask: Bool[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    """The bonus as a loss: `-coefficient * entropy`."""
    return -coefficient * _keep(mask, entropy)


def token_weights(
    mask: Bool[Tensor, "N A"], aggregation: str, *, max_tokens: int | None = None
) -> Float[Tensor, "N A"]:
    """One weight a token, such that the loss of a minibatch is the sum of weight times loss.

    - `token_mean`: every token in `mask` counts the same, 1 over their number (DAPO, arXiv 2503.14476);
    - `sequence_mean`: every row counts the same, its tokens share its weight (GRPO, arXiv 2402.03300, equation 3);
      rows with an empty mask count as absent;
    - `constant`: 1 / (N max_tokens), whatever the lengths (Dr. GRPO, arXiv 2503.20783); N counts every row.

    `mask` is that of the *whole* minibatch; slice the weights for microbatches. An empty mask gives zeros.
    Raises `ValueError` for an unknown aggregation, and for `constant` without a `max_tokens` of at least 1.
    """
    if aggregation == "token_mean":
        return mask / mask.sum().clamp(min=1)
    if aggregation == "sequence_mean":
        length = mask.sum(1, keepdim=True)
        return mask / length.clamp(min=1) / (length > 0).sum().clamp(min=1)
    if aggregation == "constant":
        if max_tokens is None or max_tokens < 1:
            raise ValueError(f"aggregation=constant needs max_tokens of at least 1, got {max_tokens}")
        return mask / (max_tokens * max(len(mask), 1))
    raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {aggregation!r}")


def weighted_sum(loss: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The sum of weight times loss, in float32 or better, not reading the loss where the weight is 0."""
    return (torch.where(weight != 0, loss, 0.0) * weight).sum()


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean over the entries in `mask`; 0 when there are none."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


@torch.no_grad()
def surrogate_report(
    logprob: Float[Tensor, "N A"],
    old_logprob: Float[Tensor, "N A"],
    advantage: Float[Tensor, "N #A"] | Float[Tensor, "N"],
    mask: Bool[Tensor, "N A"],
    *,
    clip_low: float,
    clip_high: float,
) -> dict[str, Float[Tensor, "N A"]]:
    """What is worth a curve about a surrogate, one number a token: `ratio/mean`, `approx_kl`, `clip_ratio/low`,
    `clip_ratio/high` and their sum `clip_ratio`; their means over tokens are the metrics of those names.
    """
    ratio, advantage = _ratio_and_advantage(logprob, old_logprob, advantage, mask)
    low = ((ratio < 1 - clip_low) & (advantage < 0)).to(ratio.dtype)
    high = ((ratio > 1 + clip_high) & (advantage > 0)).to(ratio.dtype)
    log_ratio = ratio.log()
    return {
        "ratio/mean": ratio,
        "approx_kl": log_ratio.expm1() - log_ratio,
        "clip_ratio/low": low,
        "clip_ratio/high": high,
        "clip_ratio": low + high,
    }


def _ratio_and_advantage(
    logprob: Tensor, old_logprob: Tensor, advantage: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The probability ratio, and the advantage in the same shape; 1 and 0 where masked out."""
    if advantage.ndim == 1 and logprob.ndim == 2:
        advantage = advantage[:, None]
    log_ratio = _keep(mask, logprob) - _keep(mask, old_logprob.detach())
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return ratio, _keep(mask, advantage.detach().expand_as(logprob))


def _error_loss(error: Tensor, kind: str, delta: float) -> Tensor:
    """Half the square, or Huber's line beyond `delta`."""
    if kind == "squared":
        return error.square() / 2
    size = error.abs()
    return torch.where(size <= delta, error.square() / 2, delta * (size - delta / 2))


def _keep(mask: Tensor | None, x: Tensor) -> Tensor:
    """`x` inside the mask and 0 outside, in the gradient too."""
    return x if mask is None else torch.where(mask, x, 0.0)


def _check_clip(clip_low: float, clip_high: float) -> None:
    if not 0 <= clip_low <= 1:
        raise ValueError(f"clip_low must be between 0 and 1 (it is the distance from 1), got {clip_low}")
    if not clip_high >= 0:
        raise ValueError(f"clip_high must be at least 0 (it is the distance from 1), got {clip_high}")
