"""Who is credited with what, where there is no critic: the advantages that the settings choose."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.advantages import baselines, decoupled_advantages, group_advantages, returns_to_go, whiten
from agents.grpo.config import GRPOConfig
from agents.rollout import Rollout


def credit(config: GRPOConfig, rollout: Rollout) -> Float[Tensor, "N"] | Float[Tensor, "N A"]:
    """One advantage a row, or one a token with `returns=to_go` or `whiten_advantages`; 0 for rows that are not valid.

    Whitened, they have mean 0 and variance 1 over the policy tokens of the whole rollout: REINFORCE++ (arXiv
    2501.03262) after returns to go without a baseline, its baseline form after the group's mean.
    """
    c, problem, valid, mask = config, rollout.problem, rollout.valid, rollout.trainable
    if c.normalize_each_reward:
        return decoupled_advantages(rollout.known("parts"), rollout.known("part_weight"), problem, valid=valid)
    advantage: Tensor
    if c.returns == "to_go":
        compared_with = baselines(rollout.returns, problem, c.baseline, valid=valid)
        advantage = torch.where(mask, returns_to_go(rollout.reward, mask) - compared_with[:, None], 0.0)
    else:
        advantage = group_advantages(
            rollout.returns, problem, baseline=c.baseline, scale=c.scale_advantages, valid=valid
        )
    return whiten(at_tokens(advantage, mask), mask) if c.whiten_advantages else advantage


def at_tokens(advantage: Tensor, mask: Bool[Tensor, "N A"]) -> Float[Tensor, "N A"]:
    """One advantage a token, 0 outside `mask`."""
    return torch.where(mask, advantage if advantage.ndim == 2 else advantage[:, None], 0.0)


def teaches_nothing(advantage: Float[Tensor, "N"] | Float[Tensor, "N A"]) -> Bool[Tensor, "N"]:
    """Rows without an advantage other than 0, whose objective is exactly 0 with no gradient, whatever its form."""
    return advantage == 0 if advantage.ndim == 1 else (advantage == 0).all(1)
