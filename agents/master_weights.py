"""Float32 weights behind parameters that compute in another number format."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn


class MasterWeights:
    """Float32 weights and gradients behind parameters that compute in `dtype`.

    An Adam step of 1e-6 on a weight of 0.02 is lost in bfloat16, whose neighbours there are 6e-5 apart. So the float32
    master is stepped and the parameter is its rounded copy. In float32 the parameter is its own master, and so it is
    for the `exact` names, whatever the `dtype`.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], dtype: torch.dtype, exact: Collection[str] = ()
    ) -> None:
        self.parameters = dict(named)
        self.masters = {
            name: p if name in exact or p.dtype == dtype else self._master(p, dtype)
            for name, p in self.parameters.items()
        }

    def _master(self, parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
        master = nn.Parameter(parameter.detach().float().clone())
        master.grad = torch.zeros_like(master)
        parameter.data = parameter.data.to(dtype)

        def collect(p: Tensor) -> None:
            assert p.grad is not None
            assert master.grad is not None
            master.grad.add_(p.grad)
            p.grad = None

        parameter.register_post_accumulate_grad_hook(collect)
        return master

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the parameters, in place."""
        pairs = [(p, m) for p, m in zip(self.parameters.values(), self.masters.values(), strict=True) if p is not m]
        if pairs:
            parameters, masters = zip(*pairs, strict=True)
            torch._foreach_copy_(list(parameters), list(masters))

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take the masters from a checkpoint and publish them."""
        for name, master in self.masters.items():
            master.copy_(weights[name])
        self.publish()


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Those that are not frozen, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
