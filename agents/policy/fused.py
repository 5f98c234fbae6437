"""RMS norms and gated feed-forward layers of a model on a CPU, by the kernels.

As with the linear layers the modules stay Hugging Face's own and only the `forward` of each single one is replaced.
Which ones compute what is not read from their names but found by trying: the kernel must give what the module gives.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.policy import kernels


class Norm:
    """The forward of one RMS norm. Copies and pickles with its module."""

    def __init__(self, module: nn.Module, eps: float, plus_one: bool) -> None:
        self.module, self.eps, self.plus_one = module, eps, plus_one

    def __call__(self, x: Float[Tensor, "*R H"]) -> Float[Tensor, "*R H"]:
        """As the module's own."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        if kernels.suit(x, weight):
            return kernels.rms_norm(x, weight, self.eps, self.plus_one)
        return type(self.module).forward(self.module, x)

    def __reduce__(self) -> tuple[type[Norm], tuple[nn.Module, float, bool]]:
        return Norm, (self.module, self.eps, self.plus_one)


class Gated:
    """The forward of one `down(silu(gate(x)) * up(x))`. Copies and pickles with its module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Float[Tensor, "*R H"]) -> Float[Tensor, "*R H"]:
        """As the module's own."""
        if not kernels.suit(x):
            return type(self.module).forward(self.module, x)
        module = self.module
        return module.down_proj(kernels.silu_mul(module.gate_proj(x), module.up_proj(x)))  # type: ignore[operator]

    def __reduce__(self) -> tuple[type[Gated], tuple[nn.Module]]:
        return Gated, (self.module,)


Fused = Norm | Gated


@torch.no_grad()
def replace_elementwise(model: nn.Module) -> list[Fused]:
    """Give the norms and gated layers of `model` that the kernels compute this forward."""
    weights = next(model.parameters())
    if weights.device.type != "cpu" or kernels.library() is None:
        return []
    replaced: list[Fused] = []
    for module in model.modules():
        for candidate, size in candidates(module):
            x = torch.linspace(-3, 3, 4 * size).sin().view(4, size).to(weights.dtype)
            own = type(module).forward(module, x)
            tolerance = 1e-5 if x.dtype == torch.float32 else 0.02
            if kernels.suit(x) and (candidate(x) - own).abs().max() <= tolerance * own.abs().max():
                module.forward = candidate
                replaced.append(candidate)
                break
    return replaced


def candidates(module: nn.Module) -> list[tuple[Fused, int]]:
    """What `module` might be, and the size of its input."""
    parameters = dict(module.named_parameters())
    eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    if isinstance(eps, float) and list(parameters) == ["weight"] and parameters["weight"].dim() == 1:
        return [(Norm(module, eps, plus_one), len(parameters["weight"])) for plus_one in (False, True)]
    if {name for name, _ in module.named_children()} == {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        gate = module.gate_proj
        return [(Gated(module), gate.in_features)] if isinstance(gate, nn.Linear) else []
    return []
