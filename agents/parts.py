"""What the parts of a reward brought in, row by row, for advantages that standardize each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.combine import Part, contributions
from textenv.ended import Ended, total

ROUNDING = 1e-9
"""Relative; what is left of a total below this is no payment. Standardized it would be as large as any other part."""


def reward_parts(
    parts: Mapping[str, Part], ended: Sequence[Ended]
) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N K"]]:
    """The parts of each episode's reward before their weights, and the weights: the sum of their products is what the
    episode was paid.

    A column for every part that is no gate, in their order: its value and spans times the gates' values, so that a
    closed gate leaves 0 of each. The last column, of weight 1, is what no part brought in: what the turns of a
    conversation were paid, and the number that `on_error` gives an episode whose task failed. Rows that could not be
    graded are 0; they take part in nothing.
    """
    weights = [part.weight for part in parts.values() if not part.gate]
    rows = []
    for sample in ended:
        verdict = sample.verdict
        brought = list(contributions(parts, verdict.parts).values()) if verdict.valid else [0.0] * len(weights)
        paid = total(verdict) if verdict.valid else 0.0
        rest = paid - sum(weight * one for weight, one in zip(weights, brought, strict=True))
        rows.append([*brought, rest if abs(rest) > ROUNDING * max(1.0, abs(paid)) else 0.0])
    values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(weights) + 1)
    return values.float(), torch.tensor([*weights, 1.0]).expand(values.shape).contiguous()
