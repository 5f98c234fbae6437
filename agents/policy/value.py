"""State values: a linear head on the policy's own hidden states, or on a second model of its own (a critic)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ValueHead(nn.Module):
    """`[*, H]` hidden states to `[*]` values in float32. Starts at zero: before it knows anything, V = 0."""

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Float[Tensor, "*R H"]) -> Float[Tensor, "*R"]:
        return self.linear(hidden.float())[..., 0]

    @torch.no_grad()
    def rescale(self, scale: float, shift: float) -> None:
        """From now on say `scale * V + shift` where it said V."""
        self.linear.weight.mul_(scale)
        self.linear.bias.mul_(scale).add_(shift)
