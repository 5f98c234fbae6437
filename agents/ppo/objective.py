"""What the actor maximizes: the clipped surrogate, or the plain one less a KL to the old policy.

Source: arXiv 1707.06347, equations 7 and 8. The KL of equation 8 is estimated token by token by k3 with the roles
exchanged: KL(old || new) from the old policy's samples, right in value and in gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents.kl import Controller, k3
from agents.losses import clipped_surrogate, penalty_surrogate, surrogate_report
from agents.ppo.config import PPOConfig


def objective(
    config: PPOConfig,
    logprob: Tensor,
    old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    penalty: Controller | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated objective and its report, one number a token; `penalty` None clips."""
    low, high, cap = config.clip_low, config.clip_high, config.ratio_cap
    kind = "clip" if penalty is None else "plain"
    report = surrogate_report(
        logprob, old, advantage, mask, clip_low=low, clip_high=high, ratio_cap=cap, objective=kind
    )
    if penalty is None:
        loss = clipped_surrogate(logprob, old, advantage, clip_low=low, clip_high=high, ratio_cap=cap, mask=mask)
        return loss, report
    kl = torch.where(mask, k3(old, torch.where(mask, logprob, 0.0)), 0.0)
    return penalty_surrogate(logprob, old, advantage, mask=mask) + penalty.beta * kl, report
