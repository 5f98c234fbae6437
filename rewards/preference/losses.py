"""Losses on pairs of scores, per pair and in float32.

Bradley and Terry (1952): P(chosen beats rejected) = sigmoid(r_chosen - r_rejected); the loss is its negative logarithm,
as in InstructGPT (arXiv:2203.02155, eq. 1), with the margin of Llama 2 (arXiv:2307.09288, eq. 2). We return one number
a pair and leave the averaging to the caller.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(
    chosen: Float[Tensor, " P"], rejected: Float[Tensor, " P"], margin: Float[Tensor, " P"] | float | None = None
) -> Float[Tensor, " P"]:
    """`-log sigmoid(chosen - rejected - margin)`, 0 or more; ln 2 where the scores are equal and there is no margin."""
    difference = chosen.float() - rejected.float()
    return -logsigmoid(difference if margin is None else difference - margin)


def centering(chosen: Float[Tensor, " P"], rejected: Float[Tensor, " P"], coefficient: float) -> Float[Tensor, " P"]:
    """`coefficient * (chosen + rejected)^2`: pairs fix only differences, this keeps the scores' middle at 0.

    Eisenstein et al. (arXiv:2312.09244, section 2).
    """
    return coefficient * (chosen.float() + rejected.float()) ** 2
