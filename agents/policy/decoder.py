"""All layers of a decoder for new tokens, in one call: a step of decoding, or short texts that are read.

What a step on a CPU costs beside its matrix products is mostly the way to them: thirty layers of seven products and a
dozen small operations each, every one of them called from Python, dispatched by torch and shared out among threads
anew; and reading a prompt spends as long between its products as in them. Here the threads start once and go through
the layers together (`decode` in `kernels.c`). The products stay torch's, as it offers them to code of other people:
`at::native::cpublas::brgemm`, oneDNN's for one thread. It wants weights in blocks of columns, so acting has a copy of
them, like that of `linear.py`.

For models whose layers are all `fused.Layer` over plain linear layers; anything else takes the layers one by one. So do
texts beyond `READ_COLUMNS`: here every token looks back by itself, which costs more than products of whole texts then.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from agents.policy.attention import CachedView, NextView
from agents.policy.compiled import call, library
from agents.policy.fused import Gated, Layer, Norm, near
from agents.policy.hardware import processor

COLUMNS = 32
"""As in `kernels.c`."""
SYMBOLS = {
    torch.float32: "_ZN2at6native7cpublas6brgemmEllllllbPKfS3_Pfb",
    torch.bfloat16: "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb",
}
RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"
INSTRUCTIONS = {torch.float32: {"avx512f"}, torch.bfloat16: {"avx512_bf16"}}
"""Without them torch has no such product, and says so in a way that ends the process."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables by which a user keeps oneDNN from using what the processor has."""
READ_COLUMNS = 256
FAST_SIZES = (64, 128)
"""Of heads, for which attention has code that keeps a head in registers."""
ROUND_ROWS = {torch.float32: 8, torch.bfloat16: 16}
"""Products are made for a multiple of this many rows: each number is one that oneDNN compiles."""


def fields_of(**kinds: str) -> list[tuple[str, Any]]:
    """Of a structure: names by their type in C."""
    types = {"pointers": ctypes.c_void_p, "counts": ctypes.c_int64, "reals": ctypes.c_float}
    return [(name, types[kind]) for kind, names in kinds.items() for name in names.split()]


class Matrix(ctypes.Structure):
    """`matrix` of `kernels.c`."""

    _fields_ = fields_of(pointers="weight bias", counts="inner outer")


class LayerOf(ctypes.Structure):
    """`layer` of `kernels.c`."""

    _fields_ = [
        *fields_of(pointers="first_norm second_norm q_norm k_norm"),
        *((name, Matrix) for name in ("qkv", "out", "gate", "up", "down")),
        *fields_of(counts="window", reals="scale"),
    ]


class DecoderOf(ctypes.Structure):
    """`decoder` of `kernels.c`."""

    _fields_ = fields_of(pointers="multiply release", counts="layers hidden heads group size plus_one", reals="eps")


class Decoder:
    """The layers of one model. Holds packed weights from `prepack` to `release`."""

    def __init__(self, layers: list[Layer], shape: tuple[int, int]) -> None:
        self.layers = layers
        self.heads, self.size = shape
        self._agrees: dict[torch.dtype, bool] = {}
        """Whether it gives what its layers give, by the format in which that was tried."""
        self._packed: dict[torch.dtype, Any] = {}
        self._versions: list[tuple[int, int]] = []
        self._space: Tensor | None = None

    @property
    def ready(self) -> bool:
        """Whether the weights are packed, and torch has not been told to do without oneDNN meanwhile."""
        return bool(self._packed) and torch._C._get_mkldnn_enabled()

    def suits(self) -> bool:
        """Whether the layers are still what they were when this was built: adapters or hooks may have been put in, and
        weights are converted."""
        weights = [p for layer in self.layers for p in layer.module.parameters()]
        dtype = weights[0].dtype
        if any(p.dtype != dtype or p.device.type != "cpu" for p in weights) or not available(dtype):
            return False
        modules = [layer.module for layer in self.layers]
        if any(m._forward_hooks or m._forward_pre_hooks for module in modules for m in module.modules()):
            return False
        return all(type(x) is nn.Linear for module in modules for x in linears(module)) and self.agrees(dtype)

    def agrees(self, dtype: torch.dtype) -> bool:
        """Whether its first layers, two where there are so many, give what they give one by one; tried once a format,
        since each has products of its own."""
        if dtype not in self._agrees:
            self._agrees[dtype] = agree(self.layers[:2], (self.heads, self.size), dtype)
        return self._agrees[dtype]

    def linears(self) -> list[nn.Module]:
        """Those whose weights are packed here."""
        return [x for layer in self.layers for x in linears(layer.module)]

    def prepack(self) -> None:
        """Copy the weights into blocks, unless that has been done and they have not changed."""
        versions = [(p._version, p.data_ptr()) for layer in self.layers for p in layer.module.parameters()]
        if versions != self._versions:
            self.release()  # before the new copy: there need not be room for two
            self._packed = {linears(self.layers[0].module)[0].weight.dtype: self._pack()}
            self._versions = versions

    def release(self) -> None:
        """Forget the copy."""
        self._packed, self._versions, self._space = {}, [], None

    @torch.no_grad()
    def _pack(self) -> tuple[DecoderOf, Any, list[Tensor]]:
        """The structures of `kernels.c` and the tensors that they point to."""
        held: list[Tensor] = []

        def address(x: Tensor | None) -> int | None:
            if x is None:
                return None
            held.append(x.detach().contiguous())
            return held[-1].data_ptr()

        def matrix(*parts: nn.Linear) -> Matrix:
            weights: list[Tensor] = [part.weight for part in parts]
            weight = torch.cat(weights) if len(weights) > 1 else weights[0]
            bias = None
            if any(part.bias is not None for part in parts):
                biases: list[Tensor] = [weight.new_zeros(len(p.weight)) if p.bias is None else p.bias for p in parts]
                bias = pad(torch.cat(biases), (0, -len(weight) % COLUMNS))
            packed = blocks_of(weight)
            return Matrix(address(packed), address(bias), weight.shape[1], len(packed) * COLUMNS)

        def layer_of(layer: Layer) -> LayerOf:
            module: Any = layer.module
            a, mlp = module.self_attn, module.mlp
            norms: tuple[Any, ...] = (module.input_layernorm, module.post_attention_layernorm, *head_norms(a))
            return LayerOf(
                *(address(None if norm is None else norm.weight) for norm in norms),
                matrix(a.q_proj, a.k_proj, a.v_proj),
                *(matrix(x) for x in (a.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
                layer.window or 0,
                self.size**-0.5 if layer.scale is None else layer.scale,
            )

        first: Any = self.layers[0].module
        weight = first.self_attn.q_proj.weight
        norm = first.input_layernorm.forward
        products = torch_products()
        group = len(weight) // self.size // self.heads
        decoder = DecoderOf(
            products[SYMBOLS[weight.dtype]], products[RELEASE], len(self.layers), weight.shape[1], self.heads, group,
            self.size, norm.plus_one, norm.eps,
        )  # fmt: skip
        return decoder, (LayerOf * len(self.layers))(*map(layer_of, self.layers)), held

    def takes(self, view: object) -> bool:
        """Whether the new tokens of this view are better computed here than layer by layer."""
        if isinstance(view, CachedView):
            return self.size in FAST_SIZES and view.sight.visible.shape[-1] <= READ_COLUMNS
        return isinstance(view, NextView)

    def states(
        self,
        x: Float[Tensor, "T H"],
        cosine: Float[Tensor, "T D"],
        sine: Float[Tensor, "T D"],
        view: NextView | CachedView,
    ) -> Float[Tensor, "T H"]:
        """What leaves the last layer. Raises `MemoryError`."""
        decoder, layers, _ = self._packed[x.dtype]
        num_rows, hidden = x.shape
        padded = -(-num_rows // ROUND_ROWS[x.dtype]) * ROUND_ROWS[x.dtype]
        seen = decoder.heads * decoder.group * self.size
        widths = (hidden, layers[0].out.outer, layers[0].qkv.outer, seen, layers[0].gate.outer)
        need = padded * sum(widths)
        if self._space is None or self._space.numel() < need or self._space.dtype != x.dtype:
            self._space = x.new_zeros(need)
        out = x.new_empty(num_rows, hidden).copy_(x)
        num_layers, _, _, heads, columns, size = view.cache.shape
        assert (num_layers, heads, size) == (len(self.layers), self.heads, self.size)
        slots = view.cache.stride(1) // view.cache.stride(2)  # of the whole cache: the view may be a part
        assert view.cache.stride()[2:] == (heads * columns * size, columns * size, size, 1)
        where = view.slot, view.column, view.position
        assert all(x.dtype == torch.int64 and x.is_contiguous() and len(x) == num_rows for x in where)
        cosine, sine = (angle.to(x.dtype).contiguous() for angle in (cosine, sine))
        assert cosine.shape == sine.shape == (num_rows, self.size)
        tensors = out, cosine, sine, view.cache, *where, self._space
        failed = call(
            "decode",
            x,
            ctypes.addressof(decoder),
            ctypes.addressof(layers),
            *(t.data_ptr() for t in tensors),
            num_rows,
            padded,
            slots,
            columns,
        )
        if failed:
            raise MemoryError(f"no memory for the attention of {num_rows} rows over {columns} columns")
        return out

    def __reduce__(self) -> tuple[type[Decoder], tuple[list[Layer], tuple[int, int]]]:
        return Decoder, (self.layers, (self.heads, self.size))


def decoder_of(layers: Iterable[nn.Module], shape: tuple[int, int], dtype: torch.dtype) -> Decoder | None:
    """One for these layers, of `shape` (key/value heads, head size), where it gives what they give; else None."""
    forwards: list[Any] = [layer.forward for layer in layers]
    fused = [x for x in forwards if isinstance(x, Layer)]
    if not fused or len(fused) < len(forwards) or not available(dtype):
        return None
    modules: list[Any] = [x.module for x in fused]
    norm = modules[0].input_layernorm.forward
    same = (norm.eps, norm.plus_one)
    shapes = [[p.shape for p in module.parameters()] for module in modules]
    if any(shape != shapes[0] for shape in shapes):
        return None
    for number, module in enumerate(modules):
        if module.self_attn.layer_idx != number:
            return None
        norms = [module.input_layernorm, module.post_attention_layernorm, *filter(None, head_norms(module.self_attn))]
        if not all(isinstance(n.forward, Norm) and (n.forward.eps, n.forward.plus_one) == same for n in norms):
            return None
        if not isinstance(module.mlp.forward, Gated) or any(type(x) is not nn.Linear for x in linears(module)):
            return None
        if any(x.in_features % 2 for x in linears(module)):
            return None
    decoder = Decoder(fused, shape)
    return decoder if decoder.agrees(dtype) else None


@torch.no_grad()
def agree(layers: list[Layer], shape: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether a decoder of these layers gives what they give, for two rows with a token each in their cache."""
    heads, size = shape
    module: Any = layers[0].module
    hidden = module.self_attn.q_proj.in_features
    x = torch.linspace(-3, 3, 2 * hidden).sin().view(2, hidden).to(dtype)
    angle = torch.linspace(0, 1, size).expand(2, size)
    cosine, sine = angle.cos().to(dtype), angle.sin().to(dtype)
    position = torch.ones(2, dtype=torch.int64)
    numbers = torch.linspace(-50, 50, len(layers) * 8 * heads * size).sin().to(dtype)
    views = [NextView(numbers.clone().view(len(layers), 2, 2, heads, 2, size), position, position, 2) for _ in "ab"]
    expected = x[None]
    for layer in layers:
        expected = layer(expected, view=views[0], position_embeddings=(cosine[None], sine[None]))
    decoder = Decoder(layers, shape)
    decoder.prepack()
    return near(decoder.states(x, cosine, sine, views[1]), expected[0])


def available(dtype: torch.dtype) -> bool:
    """Whether there is a compiler, torch has the product and the processor its instructions."""
    return (
        dtype in SYMBOLS
        and library() is not None
        and torch.backends.mkldnn.is_available()
        and torch._C._get_mkldnn_enabled()
        and not any(os.environ.get(name) for name in LIMITS)
        and INSTRUCTIONS[dtype] <= set(processor().split())
        and {SYMBOLS[dtype], RELEASE} <= torch_products().keys()
    )


@cache
def torch_products() -> dict[str, int]:
    """Addresses of the functions that this torch has."""
    path = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return {}
    names = [name for name in (*SYMBOLS.values(), RELEASE) if hasattr(library, name)]
    return {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names}


def blocks_of(weight: Float[Tensor, "O I"]) -> Tensor:
    """`[blocks, I, columns]`: blocks of `COLUMNS` outputs, transposed; the last one is filled up with 0.

    In bfloat16 the elements of two rows stay beside each other, `[blocks, I / 2, columns, 2]`, seen as one number of 32
    bits.
    """
    weight = pad(weight.detach(), (0, 0, 0, -len(weight) % COLUMNS))
    whole = weight if weight.dtype == torch.float32 else weight.contiguous().view(torch.int32)
    return whole.unflatten(0, (-1, COLUMNS)).transpose(1, 2).contiguous()


def qkv(module: Any) -> tuple[Any, ...]:
    """The projections that are one matrix here."""
    a = module.self_attn
    return a.q_proj, a.k_proj, a.v_proj


def linears(module: Any) -> tuple[Any, ...]:
    """All seven of a layer: linear ones, unless adapters have been put in their place."""
    mlp = module.mlp
    return *qkv(module), module.self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj


def head_norms(attention: Any) -> tuple[nn.Module | None, nn.Module | None]:
    """Of queries and keys."""
    return getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
