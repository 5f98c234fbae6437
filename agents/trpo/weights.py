"""Parameters as one flat vector, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


@torch.no_grad()
def read(parameters: Sequence[nn.Parameter]) -> Float[Tensor, "D"]:
    """A copy of them all."""
    return torch.cat([p.flatten() for p in parameters])


@torch.no_grad()
def write(parameters: Sequence[nn.Parameter], weights: Float[Tensor, "D"]) -> None:
    """Copy `weights` into them, bit for bit."""
    for parameter, part in zip(parameters, weights.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))


@torch.no_grad()
def take_gradient(parameters: Sequence[nn.Parameter]) -> Float[Tensor, "D"]:
    """What has been accumulated in them, 0 where nothing was; they have none afterwards."""
    gradient = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return gradient
