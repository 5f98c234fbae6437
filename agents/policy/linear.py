"""Matrix products of a model's linear layers on a CPU, by oneDNN.

Torch gives float32 products to MKL, which on processors of other makers than its own runs at less than half of what
oneDNN reaches (64 rows of SmolLM2 on an EPYC: 140 ms a forward against 48), and it lays out the weights anew in every
product (in bfloat16 33 ms against 26). So a linear layer of a model that runs on a CPU asks oneDNN itself: with the
weights as they lie when there may be a gradient, with weights laid out once (*prepacked*) while it acts. The modules
stay Hugging Face's own; what is replaced is the `forward` of each single one, by an equal function. Elsewhere nothing
is changed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from agents.policy.hardware import processor

MIN_WEIGHTS = 2**16
"""Smaller layers cost more to dispatch than to compute."""
ROWS = 64
"""For how many rows of input prepacked weights are laid out; other numbers work, too."""


@cache
def available() -> bool:
    """Whether this torch has the products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Float[Tensor, "*R I"], weight: Tensor, bias: Tensor | None = None) -> Float[Tensor, "*R O"]:
    """`x weight' + bias` without a gradient; `weight [O, I]` plain, transposed or prepacked."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def forward(x: Float[Tensor, "*R I"], weight: Float[Tensor, "O I"], bias: Tensor | None) -> Float[Tensor, "*R O"]:
    """`x weight' + bias`, by oneDNN in float32 and as torch does it otherwise."""
    return product(x, weight, bias) if suits(x, weight) else linear(x, weight, bias)


def input_gradient(out: Float[Tensor, "R O"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "R I"]:
    """That of `x`, given that of the output."""
    return product(out, weight.t()) if suits(out, weight) else out @ weight


def weight_gradient(out: Float[Tensor, "R O"], x: Float[Tensor, "R I"]) -> Float[Tensor, "O I"]:
    """That of the weight."""
    return product(out.t(), x.t()) if suits(out, x) else out.t() @ x


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to be asked itself."""
    dense = x.dtype == torch.float32 == weight.dtype and x.device.type == "cpu" and x.numel() > 0
    return dense and available() and not has_fast_mkl()


@cache
def has_fast_mkl() -> bool:
    """Whether torch's own products are by MKL on a processor of its maker: there they are the faster ones (gradients of
    weights by a third)."""
    return torch.backends.mkl.is_available() and "GenuineIntel" in processor()


class Product(torch.autograd.Function):
    """`linear` in float32, all three of its products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`[*, I]` to `[*, O]`."""
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Those of input, weight and bias, as far as they are wanted."""
        x, weight = ctx.saved_tensors
        out = gradients[0].flatten(0, -2)
        dx = input_gradient(out, weight).view_as(x) if ctx.needs_input_grad[0] else None
        dw = weight_gradient(out, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        db = out.sum(0) if ctx.needs_input_grad[2] else None
        return dx, dw, db


class Linear:
    """The forward of one `nn.Linear`, by whichever product suits. Copies and pickles without prepacked weights."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.prepacked: Tensor | None = None
        self.bias: Tensor | None = None
        self.source: tuple[Tensor, int, int] | None = None

    def __call__(self, x: Float[Tensor, "*R I"]) -> Float[Tensor, "*R O"]:
        """As `nn.Linear.forward`."""
        if self.prepacked is not None and not torch.is_grad_enabled():
            self.prepack()
            if self.prepacked is not None:
                return product(x, self.prepacked, self.bias)
        weight, bias = self.layer.weight, self.layer.bias
        return Product.apply(x, weight, bias) if suits(x, weight) else linear(x, weight, bias)

    def prepack(self) -> None:
        """Lay out the weights for products without gradient, unless that has been done and they have not changed."""
        weight = self.layer.weight
        if self.source is not None:
            source, version, address = self.source
            if weight is source and weight._version == version and weight.data_ptr() == address:
                return
            self.release()
        if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16):
            self.prepacked = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
            self.bias = None if self.layer.bias is None else self.layer.bias.detach()
            self.source = weight, weight._version, weight.data_ptr()

    def release(self) -> None:
        """Forget the prepacked copy: its memory is wanted."""
        self.prepacked = self.bias = self.source = None

    def __reduce__(self) -> tuple[type[Linear], tuple[nn.Linear]]:
        return Linear, (self.layer,)


def replace_products(model: nn.Module) -> list[Linear]:
    """Give the plain linear layers of `model` this forward; a subclass may mean something else and is left alone."""
    if not available():
        return []
    replaced = []
    for layer in model.modules():
        if type(layer) is nn.Linear and layer.weight.numel() >= MIN_WEIGHTS:
            replaced.append(Linear(layer))
            layer.forward = replaced[-1]  # type: ignore[assignment]
    return replaced
