"""Which token of a packed row stands where in padded sequences, both ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Route:
    """Between T packed tokens and padded sequences `[B, L]`."""

    index: Int[Tensor, "B L"]
    """The token that stands there; -1 where there is none."""
    start: Int[Tensor, "T1"]
    place: Int[Tensor, "P"]
    """`place[start[t] : start[t + 1]]` are the places of token t, each a row times L plus a column."""


def route_of(index: Int[Tensor, "B L"], exists: Bool[Tensor, "B L"], num_tokens: int) -> Route:
    """The route by which token `index` gets where it `exists`.

    >>> route = route_of(torch.tensor([[0, 1, 0], [0, 2, 0]]), torch.tensor([[True, True, False]] * 2), 3)
    >>> route.index.tolist(), route.start.tolist(), route.place.tolist()
    ([[0, 1, -1], [0, 2, -1]], [0, 2, 3, 4], [0, 3, 1, 4])
    """
    places = exists.flatten().nonzero()[:, 0]
    tokens, order = index.flatten()[places].sort(stable=True)
    start = torch.searchsorted(tokens, torch.arange(num_tokens + 1))
    return Route(torch.where(exists, index, -1), start, places[order])
