"""Losses on the scores of judged responses, one number a judgement, in float32; the caller averages.

A judgement ranks K responses to one prompt. `place` says where each stands (0 is best, equal places are ties, ABSENT
fills the rectangle), so a pair is a ranking of two.

Bradley and Terry (1952): P(chosen beats rejected) = sigmoid(r_chosen - r_rejected); the loss is its negative logarithm,
averaged over all pairs of a ranking as in InstructGPT (arXiv:2203.02155, eq. 1), with the margin of Llama 2
(arXiv:2307.09288, eq. 2). Plackett (1975) and Luce (1959): a ranking is drawn best first, each time by a softmax over
what remains; the loss is minus the log-probability of the ranking. For two responses both are the same.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

ABSENT = -1
"""The place of a column that holds no response."""


def bradley_terry(
    chosen: Float[Tensor, "*P"], rejected: Float[Tensor, "*P"], margin: Float[Tensor, "*P"] | float | None = None
) -> Float[Tensor, "*P"]:
    """`-log sigmoid(chosen - rejected - margin)`, 0 or more; ln 2 where the scores are equal and there is no margin."""
    difference = chosen.float() - rejected.float()
    return -logsigmoid(difference if margin is None else difference - margin)


def all_pairs(
    score: Float[Tensor, "N K"], place: Int[Tensor, "N K"], level: Float[Tensor, "N K"] | None = None, *, ties: str
) -> Float[Tensor, " N"]:
    """The mean of `bradley_terry` over the pairs of each ranking; 0 for one without pairs.

    The margin of a pair is the difference of its `level`s. A tied pair is left out (`ties="drop"`) or counts half for
    either order (`"half"`), which is least where the scores are equal.
    """
    weight = better(place).float()
    if ties == "half":
        weight = weight + tied(place).float() / 2
    margin = None if level is None else level[:, :, None] - level[:, None, :]
    losses = bradley_terry(score[:, :, None], score[:, None, :], margin)
    return (losses * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


def plackett_luce(score: Float[Tensor, "N K"], place: Int[Tensor, "N K"], *, ties: str) -> Float[Tensor, " N"]:
    """Minus the log-probability of each ranking: the sum over k of `logsumexp(r_k ... r_K) - r_k`, best first.

    Tied responses are not compared with each other (`ties="drop"`: each competes with those below alone), or the loss
    is the mean over all orders that agree with the ranking (`"half"`). Shifting all scores of a row changes nothing.
    """
    member, weight = (table.to(score.device) for table in _stage_tables(place.tolist(), ties))
    score = score.float()
    remaining = score[:, None, :].masked_fill(~member, -torch.inf).logsumexp(2)
    return (remaining * weight).sum(1) - score.masked_fill(place.to(score.device) == ABSENT, 0.0).sum(1)


def centering(score: Float[Tensor, "N K"], place: Int[Tensor, "N K"], coefficient: float) -> Float[Tensor, " N"]:
    """`coefficient * (2 x mean score)^2`: judgements fix only differences, this keeps the scores' middle at 0.

    For a pair it is `(chosen + rejected)^2`, as in Eisenstein et al. (arXiv:2312.09244, section 2).
    """
    present = place != ABSENT
    mean = score.float().masked_fill(~present, 0.0).sum(1) / present.sum(1)
    return coefficient * (2 * mean) ** 2


def better(place: Int[Tensor, "N K"]) -> Bool[Tensor, "N K K"]:
    """Whether i stands before j, for every i and j of a row."""
    return _both_present(place) & (place[:, :, None] < place[:, None, :])


def tied(place: Int[Tensor, "N K"]) -> Bool[Tensor, "N K K"]:
    """Whether i and j are different responses on one place; every tied pair appears twice."""
    other = ~torch.eye(place.shape[1], dtype=torch.bool, device=place.device)
    return _both_present(place) & (place[:, :, None] == place[:, None, :]) & other


def _both_present(place: Tensor) -> Tensor:
    present = place != ABSENT
    return present[:, :, None] & present[:, None, :]


def _stage_tables(places: list[list[int]], ties: str) -> tuple[Bool[Tensor, "N M K"], Float[Tensor, "N M"]]:
    """Who competes in each stage and how much the stage counts; what fills the rectangle counts nothing, but has a
    member, since the logarithm of an empty sum has no gradient."""
    rows = [_stages(tuple(row), ties) for row in places]
    member = torch.zeros(len(rows), max(map(len, rows)), len(places[0]), dtype=torch.bool)
    member[:, :, 0] = True
    weight = torch.zeros(member.shape[:2])
    for row, stages in enumerate(rows):
        for stage, (members, share) in enumerate(stages):
            member[row, stage, 0] = False
            member[row, stage, list(members)] = True
            weight[row, stage] = share
    return member, weight


@lru_cache(maxsize=4096)
def _stages(place: tuple[int, ...], ties: str) -> tuple[tuple[tuple[int, ...], float], ...]:
    """The stages of a ranking, each as its members and its weight.

    Over all orders of m tied responses, what still remains of them is each subset of a size equally often: 1 of
    C(m, size) orders.
    """
    stages: list[tuple[tuple[int, ...], float]] = []
    for level in sorted({p for p in place if p != ABSENT}):
        here = [i for i, p in enumerate(place) if p == level]
        below = [i for i, p in enumerate(place) if p > level]
        for size in range(1, len(here) + 1) if ties == "half" else (1,):
            share = 1 / comb(len(here), size) if ties == "half" else 1.0
            stages += [((*remaining, *below), share) for remaining in combinations(here, size)]
    return tuple(stages)
