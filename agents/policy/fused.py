"""Layers of a model on a CPU, by the kernels: RMS norms, gated feed-forward layers, and whole decoder layers.

As with the linear layers the modules stay Hugging Face's own and only the `forward` of each single one is replaced.
Which ones compute what is not read from their names but found by trying: the kernels must give what the module gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agents.policy import kernels
from agents.policy.attention import Overheard, PackedView, View
from agents.policy.gradients import AddRmsNorm, GatedLinear, RmsNorm, Rotate, SiluMul

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Of the largest number in what a module gives."""
CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
MEANT_DIFFERENTLY = (TypeError, ValueError, IndexError, AttributeError, RuntimeError, AssertionError)
"""What is raised by a module whose parts are called like those of another and mean something else."""


class Norm:
    """The forward of one RMS norm. Copies and pickles with its module."""

    def __init__(self, module: nn.Module, eps: float, plus_one: bool) -> None:
        self.module, self.eps, self.plus_one = module, eps, plus_one

    def __call__(self, x: Float[Tensor, "*R H"]) -> Float[Tensor, "*R H"]:
        """As the module's own."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        if not kernels.fit(x, weight):
            return type(self.module).forward(self.module, x)
        norm = RmsNorm.apply if torch.is_grad_enabled() else kernels.rms_norm
        return norm(x, weight, self.eps, self.plus_one)

    def of_sum(
        self, x: Float[Tensor, "*R H"], y: Float[Tensor, "*R H"]
    ) -> tuple[Float[Tensor, "*R H"], Float[Tensor, "*R H"]]:
        """`x + y`, and the norm of it."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        if not kernels.fit(x, y, weight):
            return x + y, self(x + y)
        norm = AddRmsNorm.apply if torch.is_grad_enabled() else kernels.add_rms_norm
        return norm(x, y, weight, self.eps, self.plus_one)

    def __reduce__(self) -> tuple[type[Norm], tuple[nn.Module, float, bool]]:
        return Norm, (self.module, self.eps, self.plus_one)


class Gated:
    """The forward of one `down(silu(gate(x)) * up(x))`. Copies and pickles with its module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Float[Tensor, "*R H"]) -> Float[Tensor, "*R H"]:
        """As the module's own."""
        module: Any = self.module
        if not kernels.fit(x):
            return type(module).forward(module, x)
        gate, up = module.gate_proj(x), module.up_proj(x)
        if not kernels.fit(gate, up):
            return module.down_proj(module.act_fn(gate) * up)
        if not torch.is_grad_enabled():
            return module.down_proj(kernels.silu_mul(gate, up))
        if type(module.down_proj) is nn.Linear and kernels.fit(gate, module.down_proj.weight):
            return GatedLinear.apply(gate, up, module.down_proj.weight, module.down_proj.bias)
        return module.down_proj(SiluMul.apply(gate, up))

    def __reduce__(self) -> tuple[type[Gated], tuple[nn.Module]]:
        return Gated, (self.module,)


class Layer:
    """The forward of one decoder layer: norm, attention with rotary positions, norm, feed-forward, each added to what
    came in. Copies and pickles with its module."""

    def __init__(
        self, module: nn.Module, scale: float | None, window: int | None, *, checkpointed: bool = False
    ) -> None:
        self.module, self.scale, self.window = module, scale, window
        self.checkpointed = checkpointed
        """Whether the backward pass computes the layer again instead of remembering it."""

    def __call__(self, *given: Any, **options: Any) -> Float[Tensor, "1 T H"]:
        """As the module's own."""
        run = self._fused if self.fits(given, options) else partial(type(self.module).forward, self.module)
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint(run, *given, use_reentrant=False, **options)
        return run(*given, **options)

    def fits(self, given: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """Whether the kernels compute a call with these arguments; else the module's own forward does."""
        x, view, turn = given[0], options.get("view"), options.get("position_embeddings")
        if view is None or turn is None or torch.is_autocast_enabled("cpu") or not kernels.fit(x, *turn):
            return False
        attention: Any = self.module.self_attn
        return turn[0].shape[-1] == attention.head_dim

    def _fused(
        self,
        hidden_states: Float[Tensor, "1 T H"],
        *,
        view: View,
        position_embeddings: tuple[Tensor, Tensor],
        **_: Any,
    ) -> Float[Tensor, "1 T H"]:
        module: Any = self.module
        x, attention = hidden_states[0], module.self_attn
        h = module.input_layernorm(x)
        q, k, v = (
            project(h).unflatten(-1, (-1, attention.head_dim))
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        rotate = Rotate.apply if torch.is_grad_enabled() else kernels.rotate
        cosine, sine = (angle[0] for angle in position_embeddings)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        seen = view.attend(attention.layer_idx, q, k, v, self.scale, self.window).flatten(1)
        x, h = module.post_attention_layernorm.forward.of_sum(x, attention.o_proj(seen))
        return x[None] + module.mlp(h[None])

    def __reduce__(self) -> tuple[Any, ...]:
        return Layer, (self.module, self.scale, self.window), {"checkpointed": self.checkpointed}


@torch.no_grad()
def replace_elementwise(model: nn.Module) -> list[Norm | Gated]:
    """Give the norms and gated layers of `model` that the kernels compute this forward."""
    weights = next(model.parameters())
    if weights.device.type != "cpu" or kernels.library() is None:
        return []
    replaced = []
    for module in model.modules():
        for candidate, size in candidates(module):
            x = torch.linspace(-3, 3, 4 * size).sin().view(4, size).to(weights.dtype)
            if kernels.fit(x) and means_the_same(candidate, module, x):
                module.forward = candidate
                replaced.append(candidate)
                break
    return replaced


def means_the_same(candidate: Norm | Gated, module: nn.Module, x: Tensor) -> bool:
    """Whether `module` makes of `x` what the candidate makes of it."""
    try:
        return near(candidate(x), type(module).forward(module, x))
    except MEANT_DIFFERENTLY:
        return False


def candidates(module: nn.Module) -> list[tuple[Norm | Gated, int]]:
    """What `module` might be, and the size of its input."""
    if len(signature(type(module).forward).parameters) > 2:
        return []  # beside its input it takes something, such as the gate of a norm
    parameters = dict(module.named_parameters())
    eps = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    if isinstance(eps, float) and list(parameters) == ["weight"] and parameters["weight"].dim() == 1:
        return [(Norm(module, eps, plus_one), len(parameters["weight"])) for plus_one in (False, True)]
    if names_of(module) == {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        gate = module.gate_proj
        return [(Gated(module), gate.in_features)] if isinstance(gate, nn.Linear) else []
    return []


@torch.no_grad()
def replace_layers(model: nn.Module, view: PackedView, reads: Sequence[Callable[[View], object]]) -> None:
    """Give the decoder layers of `model` that the kernels compute this forward. Each of `reads` lets the model read a
    text through the view that it is given; a layer must be met in all of them."""
    layers: list[Any] = [module for module in model.modules() if might_be_layer(module)]
    if kernels.library() is None or not layers:
        return
    overheard = Overheard(view)
    met: dict[nn.Module, list[tuple[tuple[Any, ...], dict[str, Any], Any]]] = {layer: [] for layer in layers}

    def note(module: nn.Module, given: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        met[module].append((given, options, result))

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    for read in reads:
        read(overheard)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        asked = overheard.asked.get(layer.self_attn.layer_idx)
        if asked is not None and len(met[layer]) == len(reads):
            candidate = Layer(layer, *asked)
            if all(candidate.fits(*one[:2]) and gives(candidate, *one) for one in met[layer]):
                layer.forward = candidate


def gives(layer: Layer, given: tuple[Any, ...], options: dict[str, Any], result: Any) -> bool:
    """Whether the layer computes `result`, up to the number format of what it adds to its input."""
    try:
        found = layer(*given, **options)
        x, error, added = given[0], (found - result).abs(), (result - given[0]).abs().max()
    except MEANT_DIFFERENTLY:
        return False
    rounding = 4 * torch.finfo(x.dtype).eps * x.abs()
    return bool((error <= TOLERANCE.get(x.dtype, 0.0) * added + rounding).all())


def might_be_layer(module: Any) -> bool:
    """Whether `module` has the parts of one, norms by the kernels among them."""
    if names_of(module) != CHILDREN or not names_of(module.self_attn) >= PROJECTIONS:
        return False
    if names_of(module.self_attn) - PROJECTIONS not in (set(), HEAD_NORMS):
        return False
    norms = (module.input_layernorm, module.post_attention_layernorm)
    return all(isinstance(norm.forward, Norm) for norm in norms) and hasattr(module.self_attn, "head_dim")


def names_of(module: nn.Module) -> set[str]:
    """Of its children."""
    return {name for name, _ in module.named_children()}


def near(found: Tensor, expected: Tensor) -> bool:
    """Equal up to the number format."""
    tolerance = TOLERANCE.get(expected.dtype, 0.0)
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
