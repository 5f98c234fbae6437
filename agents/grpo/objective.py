"""The objective that the settings choose, per token, and what is reported of it."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from agents.grpo.config import GRPOConfig
from agents.losses import clipped_surrogate, penalty_surrogate, surrogate_report, weighted_logprob


def objective(
    config: GRPOConfig,
    logprob: Float[Tensor, "N A"],
    old_logprob: Float[Tensor, "N A"],
    advantage: Float[Tensor, "N"] | Float[Tensor, "N A"],
    mask: Bool[Tensor, "N A"],
) -> tuple[Float[Tensor, "N A"], dict[str, Float[Tensor, "N A"]]]:
    """What is minimized at every token, and the report. `config.ratio` says of what the ratio is: a token or a row."""
    c, low, high, cap, level = config, config.clip_low, config.clip_high, config.ratio_cap, config.ratio
    new, old, a = logprob, old_logprob, advantage
    report = surrogate_report(
        new, old, a, mask, clip_low=low, clip_high=high, ratio_cap=cap, level=level, objective=c.objective
    )
    if c.objective == "plain":
        return penalty_surrogate(new, old, a, level=level, mask=mask), report
    if c.objective == "cispo":
        return weighted_logprob(new, old, a, clip_low=low, clip_high=high, level=level, mask=mask), report
    loss = clipped_surrogate(new, old, a, clip_low=low, clip_high=high, ratio_cap=cap, level=level, mask=mask)
    return loss, report
