"""The kernels with their gradients in closed form.

Each function keeps what its formula needs and nothing that lies between: torch's own chain of small operations keeps a
float32 copy of a layer's input, its normalized form, the activation and the product, half of what an update has to
remember. There is no second derivative, and asking for one is an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agents.policy import kernels, linear
from agents.policy.route import Route


class RmsNorm(torch.autograd.Function):
    """`kernels.rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, plus_one: bool) -> Tensor:
        """`[*, H]` to `[*, H]`."""
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.how = eps, plus_one
        return kernels.rms_norm(x, weight, eps, plus_one)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Those of input and weight."""
        x, weight = ctx.saved_tensors
        of_weight = ctx.needs_input_grad[1]
        return *kernels.rms_norm_backward(x, weight, gradients[0], None, *ctx.how, of_weight=of_weight), None, None


class AddRmsNorm(torch.autograd.Function):
    """`kernels.add_rms_norm`: the sum and its norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor, eps: float, plus_one: bool) -> tuple[Tensor, Tensor]:
        """Two of `[*, H]`."""
        total, out = kernels.add_rms_norm(x, y, weight, eps, plus_one)
        ctx.save_for_backward(total, weight)
        ctx.how = eps, plus_one
        return total, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The sum's own gradient and the norm's, for both terms; the weight's."""
        total, weight = ctx.saved_tensors
        change, by_out = gradients
        of_weight = ctx.needs_input_grad[2]
        by_total, by_weight = kernels.rms_norm_backward(total, weight, by_out, change, *ctx.how, of_weight=of_weight)
        return by_total, by_total, by_weight, None, None


class Rotate(torch.autograd.Function):
    """`kernels.rotate`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """`[T, H, D]` to `[T, H, D]`."""
        ctx.save_for_backward(cosine, sine)
        return kernels.rotate(x, cosine, sine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Turned back."""
        return kernels.rotate(gradients[0], *ctx.saved_tensors, back=True), None, None


class SiluMul(torch.autograd.Function):
    """`kernels.silu_mul`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """`silu(gate) * up`."""
        ctx.save_for_backward(gate, up)
        return kernels.silu_mul(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Those of gate and up."""
        gate, up = ctx.saved_tensors
        return kernels.silu_mul_backward(gate, up, gradients[0])


class GatedLinear(torch.autograd.Function):
    """`linear(silu(gate) * up, weight, bias)`; the product is not kept but made again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`[*, I]` to `[*, O]`."""
        ctx.save_for_backward(gate, up, weight)
        return linear.forward(kernels.silu_mul(gate, up), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Those of gate, up, weight and bias, as far as they are wanted."""
        gate, up, weight = ctx.saved_tensors
        out = gradients[0].flatten(0, -2)
        by_inner = linear.input_gradient(out, weight).view_as(gate)
        by_gate, by_up = kernels.silu_mul_backward(gate, up, by_inner)
        by_weight = by_bias = None
        if ctx.needs_input_grad[2]:
            by_weight = linear.weight_gradient(out, kernels.silu_mul(gate, up).flatten(0, -2))
        if ctx.needs_input_grad[3]:
            by_bias = out.sum(0)
        return by_gate, by_up, by_weight, by_bias


class Spread(torch.autograd.Function):
    """`kernels.spread`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, route: Route) -> Tensor:
        """`[T, H, D]` to `[B, H, L, D]`."""
        ctx.route, ctx.num_tokens = route, len(x)
        return kernels.spread(x, route.index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """What stands in a token's places, added up."""
        _, heads, _, size = gradients[0].shape
        out = gradients[0].new_zeros(ctx.num_tokens, heads, size)
        kernels.collect(gradients[0], ctx.route.start, ctx.route.place, out)
        return out, None


class Collect(torch.autograd.Function):
    """`kernels.collect` of several paddings, between which every token has exactly one place."""

    @staticmethod
    def forward(ctx: Any, routes: tuple[Route, ...], *blocks: Tensor) -> Tensor:
        """Each `[B, H, L, D]`, to `[T, H, D]`."""
        ctx.routes = routes
        _, heads, _, size = blocks[0].shape
        out = blocks[0].new_empty(len(routes[0].start) - 1, heads, size)
        for route, block in zip(routes, blocks, strict=True):
            kernels.collect(block, route.start, route.place, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Each token's in its place, 0 in the padding."""
        return None, *(kernels.spread(gradients[0], route.index) for route in ctx.routes)
