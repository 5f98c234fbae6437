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
    c, three = config, (logprob, old_logprob, advantage)
    clip = {"clip_low": c.clip_low, "clip_high": c.clip_high}
    report = surrogate_report(*three, mask, **clip, ratio_cap=c.ratio_cap, level=c.ratio, objective=c.objective)
    if c.objective == "plain":
        return penalty_surrogate(*three, level=c.ratio, mask=mask), report
    if c.objective == "cispo":
        return weighted_logprob(*three, **clip, level=c.ratio, mask=mask), report
    return clipped_surrogate(*three, **clip, ratio_cap=c.ratio_cap, level=c.ratio, mask=mask), report
