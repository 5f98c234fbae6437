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

AGGREGATIONS = ("token_mean", "sequence_mean", "sequence_sum", "constant")
RATIOS = ("token", "sequence", "product")
OBJECTIVES = ("clip", "cispo", "plain")

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut off here: `exp` would overflow, and an infinity times a zero gradient is NaN."""


def log_ratio(
    logprob: Float[Tensor, "*shape"],
    old_logprob: Float[Tensor, "*shape"],
    level: str = "token",
    *,
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The logarithm of the probability ratio to the old policy, at every token; with gradient, 0 outside `mask`.

    - `token`: that of the token (PPO, arXiv 1707.06347);
    - `sequence`: the mean over the row's tokens, so that the ratio is their geometric mean (GSPO, arXiv 2507.18071,
      equation 7);
    - `product`: the sum over the row's tokens, the ratio of the whole answers' probabilities (RLOO, arXiv 2402.14740,
      which takes an answer as one action). It is one factor a *row*: an objective of it is to be counted once a row,
      which the aggregation `sequence_mean` does.

    The latter two stand at each of the row's tokens. Cut off at plus and minus `MAX_LOG_RATIO`. Raises `ValueError`
    for another level.

    >>> log_ratio(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.9]]), "sequence")
    tensor([[0.2000, 0.2000]])
    """
    if level not in RATIOS:
        raise ValueError(f"level must be one of {', '.join(RATIOS)}, got {level!r}")
    difference = _keep(mask, logprob) - _keep(mask, old_logprob.detach())
    if level != "token":
        row = difference.sum(-1, keepdim=True)
        if level == "sequence":
            tokens = max(difference.shape[-1], 1) if mask is None else mask.sum(-1, keepdim=True).clamp(min=1)
            row = row / tokens
        difference = _keep(mask, row.expand_as(difference))
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def clipped_surrogate(
    logprob: Float[Tensor, "*shape"],
    old_logprob: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*#shape"] | Float[Tensor, "N"],
    *,
    clip_low: float,
    clip_high: float,
    ratio_cap: float | None = None,
    level: str = "token",
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The negated clipped objective: `-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A)`.

    `advantage` is one a token or one a row (`N` or `N 1`; a `level` of the row needs one a row). With a `ratio_cap` it
    is `min(ratio, ratio_cap)` that takes part: a negative advantage, which the clip leaves free above, then costs at
    most `ratio_cap` times as much. `level` is `log_ratio`'s. Raises `ValueError` unless `0 <= clip_low <= 1`,
    `clip_high >= 0` (both are distances from 1, never absolute bounds) and `ratio_cap > 1 + clip_high` (this one is a
    ratio).

    Source: arXiv 1707.06347 (PPO), equation 7; two distances as in arXiv 2503.14476 (DAPO), equation 10; the cap is
    arXiv 1912.09729's dual clip (equation 5, c) and arXiv 2505.07291's two-sided clip (equation 3, delta), which are
    the same. With the `sequence` ratio arXiv 2507.18071 (GSPO), equation 5.

    >>> clipped_surrogate(*torch.tensor([[-1.8], [-2.1], [0.2]]), clip_low=0.2, clip_high=0.2)
    tensor([-0.2400])
    """
    _check_clip(clip_low, clip_high)
    if ratio_cap is not None and not ratio_cap > 1 + clip_high:
        raise ValueError(f"ratio_cap must be above 1 + clip_high = {1 + clip_high:g} (it is a ratio), got {ratio_cap}")
    ratio = log_ratio(logprob, old_logprob, level, mask=mask).exp()
    advantage = _at_tokens(advantage, logprob, mask)
    if ratio_cap is not None:
        ratio = ratio.clamp(max=ratio_cap)
    return _keep(mask, -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage))


def penalty_surrogate(
    logprob: Float[Tensor, "*shape"],
    old_logprob: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*#shape"] | Float[Tensor, "N"],
    *,
    level: str = "token",
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """The negated objective without a clip, `-ratio A`: the policy gradient, for samples of the old policy,
    by itself or with a KL penalty added.

    `advantage` and `level` as in `clipped_surrogate`. Source: arXiv 1707.06347, equation 6, and 8, first term.
    """
    ratio = log_ratio(logprob, old_logprob, level, mask=mask).exp()
    return _keep(mask, -ratio * _at_tokens(advantage, logprob, mask))


def weighted_logprob(
    logprob: Float[Tensor, "*shape"],
    old_logprob: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*#shape"] | Float[Tensor, "N"],
    *,
    clip_low: float,
    clip_high: float,
    level: str = "token",
    mask: Bool[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """CISPO's negated objective: `-sg[clip(ratio, 1 - clip_low, 1 + clip_high)] A logprob`.

    The clipped ratio is a weight without gradient, so that no token is ever dropped from the gradient, as the clipped
    surrogate drops those beyond its clip. `advantage` and `level` as there. Raises `ValueError` unless
    `0 <= clip_low <= 1` and `clip_high >= 0`: as everywhere here they are *distances* from 1, so that a largest weight
    of 5 is `clip_high=4`, and no smallest one `clip_low=1`. (A peer reads the same number as the weight itself, with
    0.2 as its default: every token then counts a fifth.)

    Source: arXiv 2506.13585 (MiniMax-M1), equations 4 and 5.

    >>> weighted_logprob(*torch.tensor([[-1.0], [-3.0], [0.5]]), clip_low=1.0, clip_high=4.0)
    tensor([2.5000])
    """
    _check_clip(clip_low, clip_high)
    ratio = log_ratio(logprob.detach(), old_logprob, level, mask=mask).exp()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high) * _at_tokens(advantage, logprob, mask)
    return _keep(mask, -weight * _keep(mask, logprob))


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
    return log_ratio(old_logprob, sampled_logprob, mask=mask).exp().clamp(max=cap)


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
    - `sequence_sum`: every token counts 1 over the number of rows with any: the plain policy gradient, a mean over
      rows of the sum over tokens (REINFORCE; RLOO, arXiv 2402.14740), in which long rows weigh more;
    - `constant`: 1 / (N max_tokens), whatever the lengths (Dr. GRPO, arXiv 2503.20783); N counts every row.

    `mask` is that of the *whole* minibatch; slice the weights for microbatches. An empty mask gives zeros.
    Raises `ValueError` for an unknown aggregation, and for `constant` without a `max_tokens` of at least 1.
    """
    if aggregation == "token_mean":
        return mask / mask.sum().clamp(min=1)
    if aggregation == "sequence_mean":
        length = mask.sum(1, keepdim=True)
        return mask / length.clamp(min=1) / (length > 0).sum().clamp(min=1)
    if aggregation == "sequence_sum":
        return mask / mask.any(1).sum().clamp(min=1)
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
    ratio_cap: float | None = None,
    level: str = "token",
    objective: str = "clip",
) -> dict[str, Float[Tensor, "N A"]]:
    """What is worth a curve about a surrogate, one number a token, whose means over tokens are the metrics.

    `ratio/mean` is that of the `level`. `approx_kl`, in nats from the old policy (k3), is of tokens at any level.
    `clip_ratio/low` and `clip_ratio/high` count the tokens whose gradient the clip took (`objective=clip`) or whose
    weight it changed (`cispo`), `clip_ratio/cap`, with a `ratio_cap`, those that it took; `clip_ratio` is their sum.
    Where the objective is `plain` nothing is clipped.
    """
    ratio = log_ratio(logprob, old_logprob, level, mask=mask).exp()
    advantage = _at_tokens(advantage, logprob, mask)
    # The surrogate's minimum clips below where A < 0 and above where A > 0; a weight is clipped whatever its sign.
    sign = advantage if objective == "clip" else torch.zeros_like(advantage)
    clips = (advantage != 0) & (objective != "plain")
    low = (clips & (ratio < 1 - clip_low) & (sign <= 0)).to(ratio.dtype)
    high = (clips & (ratio > 1 + clip_high) & (sign >= 0)).to(ratio.dtype)
    of_token = log_ratio(logprob, old_logprob, mask=mask)
    report = {
        "ratio/mean": ratio,
        "approx_kl": of_token.expm1() - of_token,
        "clip_ratio/low": low,
        "clip_ratio/high": high,
        "clip_ratio": low + high,
    }
    if ratio_cap is not None:
        report["clip_ratio/cap"] = ((ratio > ratio_cap) & (advantage < 0)).to(ratio.dtype)
        report["clip_ratio"] = low + high + report["clip_ratio/cap"]
    return report


def _at_tokens(advantage: Tensor, logprob: Tensor, mask: Tensor | None) -> Tensor:
    """The advantage in the shape of the log-probabilities, detached; 0 where masked out."""
    if advantage.ndim == 1 and logprob.ndim == 2:
        advantage = advantage[:, None]
    return _keep(mask, advantage.detach().expand_as(logprob))


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
