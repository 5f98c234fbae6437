"""The functions of `kernels.c` on tensors.

Each does in one pass over memory what torch does in several operations: a whole norm, a gated product, the attention of
a new token, the choice of one. They take dense arrays of one number format on a CPU (`fit`); elsewhere torch computes
the same. Their gradients are in `gradients.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.policy.compiled import FORMATS, call, library


def fit(*tensors: Tensor) -> bool:
    """Whether the kernels can take these: of one format they know, on a CPU, whole in the last axis."""
    dtype = tensors[0].dtype
    return (
        dtype in FORMATS
        and tensors[0].device.type == "cpu"  # before a library is compiled that nobody wants
        and library() is not None
        and all(x.dtype == dtype and x.device.type == "cpu" and x.stride(-1) == 1 and x.numel() for x in tensors)
    )


def suit(*tensors: Tensor) -> bool:
    """Whether they fit and no gradient is wanted."""
    return not torch.is_grad_enabled() and fit(*tensors)


def rms_norm(x: Float[Tensor, "*R H"], weight: Float[Tensor, "H"], eps: float, plus_one: bool) -> Float[Tensor, "*R H"]:
    """`x` over its root mean square, times `weight`, or times `1 + weight` (Gemma)."""
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    size = x.shape[-1]
    assert weight.shape == (size,)
    call("rms_norm", x, x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // size, size, eps, plus_one)
    return out


def add_rms_norm(
    x: Float[Tensor, "*R H"], y: Float[Tensor, "*R H"], weight: Float[Tensor, "H"], eps: float, plus_one: bool
) -> tuple[Float[Tensor, "*R H"], Float[Tensor, "*R H"]]:
    """`x + y`, and `rms_norm` of it."""
    x, y = x.contiguous(), y.contiguous()
    total, out, size = torch.empty_like(x), torch.empty_like(x), x.shape[-1]
    assert weight.shape == (size,)
    arrays = (t.data_ptr() for t in (x, y, weight, total, out))
    call("add_rms_norm", x, *arrays, x.numel() // size, size, eps, plus_one)
    return total, out


def rms_norm_backward(
    x: Float[Tensor, "*R H"],
    weight: Float[Tensor, "H"],
    by_out: Float[Tensor, "*R H"],
    change: Float[Tensor, "*R H"] | None,
    eps: float,
    plus_one: bool,
    *,
    of_weight: bool = True,
) -> tuple[Float[Tensor, "*R H"], Float[Tensor, "H"] | None]:
    """The gradients of input and weight; `change` is what else changes the input, added to the first."""
    by_out, change = by_out.contiguous(), None if change is None else change.contiguous()
    by_x, size, threads = torch.empty_like(x), x.shape[-1], torch.get_num_threads()
    by_weight = torch.zeros(threads, size, dtype=torch.float32) if of_weight else None
    arrays = (0 if t is None else t.data_ptr() for t in (x, weight, by_out, change, by_x, by_weight))
    call("rms_norm_backward", x, *arrays, x.numel() // size, size, eps, plus_one, threads)
    return by_x, None if by_weight is None else by_weight.sum(0).to(weight.dtype)


def silu_mul(gate: Float[Tensor, "*R H"], up: Float[Tensor, "*R H"]) -> Float[Tensor, "*R H"]:
    """`silu(gate) * up`."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    call("silu_mul", gate, gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel())
    return out


def silu_mul_backward(
    gate: Float[Tensor, "*R H"], up: Float[Tensor, "*R H"], by_out: Float[Tensor, "*R H"]
) -> tuple[Float[Tensor, "*R H"], Float[Tensor, "*R H"]]:
    """The gradients of both."""
    gate, up, by_out = gate.contiguous(), up.contiguous(), by_out.contiguous()
    by_gate, by_up = torch.empty_like(gate), torch.empty_like(up)
    call("silu_mul_backward", gate, *(t.data_ptr() for t in (gate, up, by_out, by_gate, by_up)), gate.numel())
    return by_gate, by_up


def rotate(
    x: Float[Tensor, "T H D"], cosine: Float[Tensor, "T D"], sine: Float[Tensor, "T D"], *, back: bool = False
) -> Float[Tensor, "T H D"]:
    """Rotary positions: `x cosine + [-x2, x1] sine` of its halves; `back` is the transposed turn, of a gradient."""
    x = x if x.stride(1) == x.shape[2] and x.stride(2) == 1 else x.contiguous()
    cosine, sine = cosine.contiguous(), sine.contiguous()
    assert cosine.shape == sine.shape == (x.shape[0], x.shape[2])
    out = torch.empty(x.shape, dtype=x.dtype)
    arrays = (cosine.data_ptr(), sine.data_ptr(), out.data_ptr())
    call("rotate", x, x.data_ptr(), x.stride(0), *arrays, *x.shape, back)
    return out


def spread(x: Float[Tensor, "T H D"], index: Int[Tensor, "B L"]) -> Float[Tensor, "B H L D"]:
    """Tokens of a packed row where `index` says, 0 where it is negative."""
    x = x if x.stride(1) == x.shape[2] and x.stride(2) == 1 else x.contiguous()
    out = torch.empty(index.shape[0], x.shape[1], index.shape[1], x.shape[2], dtype=x.dtype)
    call("spread", x, x.data_ptr(), x.stride(0), index.data_ptr(), out.data_ptr(), *out.shape)
    return out


def collect(
    x: Float[Tensor, "B H L D"], start: Int[Tensor, "T1"], place: Int[Tensor, "P"], out: Float[Tensor, "T H D"]
) -> None:
    """Into `out`, for each token that has places, the sum of what stands there: `place[start[t] : start[t + 1]]`, each
    a row times L plus a column."""
    x = x.contiguous()
    _, heads, columns, size = x.shape
    arrays = (t.data_ptr() for t in (x, start, place, out))
    call("collect", x, *arrays, len(out), heads, columns, size)


def attend(
    q: Float[Tensor, "B H D"],
    k: Float[Tensor, "B K D"],
    v: Float[Tensor, "B K D"],
    cache: Float[Tensor, "2 S K C D"],
    column: Int[Tensor, "B"],
    position: Int[Tensor, "B"],
    scale: float,
    window: int | None,
) -> Float[Tensor, "B H D"]:
    """Attention of one new token in each of the first B slots of a contiguous `cache`, float32 within.

    Its key and value are written to `column`; it sees the columns up to `position`. Raises `MemoryError`.
    """
    num_rows, heads, size = k.shape
    assert v.shape == k.shape  # what does not fit would be written over something else
    assert num_rows <= cache.shape[1]
    assert (heads, size) == (cache.shape[2], cache.shape[4])
    out = q.new_empty(q.shape)
    failed = call(
        "attend",
        q,
        *(number for x in (q, k, v) for number in (x.data_ptr(), x.stride(0), x.stride(1))),
        cache.data_ptr(),
        cache.data_ptr() + cache.stride(0) * cache.element_size(),
        column.data_ptr(),
        position.data_ptr(),
        out.data_ptr(),
        num_rows,
        heads,
        cache.shape[3],
        q.shape[1] // heads,
        size,
        window or 0,
        scale,
    )
    if failed:
        raise MemoryError(f"no memory for the attention of {num_rows} rows over {cache.shape[3]} columns")
    return out


def draw(
    logits: Float[Tensor, "R V"], uniform: Float[Tensor, "R"], temperature: float
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
    """A token a row, the inverse of the cumulative distribution at `uniform` (float64), and its log-probability.

    Raises `MemoryError`.
    """
    num_rows, size = logits.shape
    token, logprob = logits.new_empty(num_rows, dtype=torch.int64), logits.new_empty(num_rows, dtype=torch.float32)
    results = token.data_ptr(), logprob.data_ptr()
    start, stride = logits.data_ptr(), logits.stride(0)
    if call("draw", logits, start, stride, uniform.data_ptr(), *results, num_rows, size, temperature):
        raise MemoryError(f"no memory to draw from {size} logits")
    return token, logprob


def score(
    logits: Float[Tensor, "R V"], target: Int[Tensor, "R"], temperature: float
) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"]]:
    """Log-probability of each target under `logits / temperature`, and the logarithm of what those sum up to.

    Raises `IndexError` for a target that has no logit.
    """
    if len(target) and not (int(target.min()) >= 0 and int(target.max()) < logits.shape[1]):
        found = f"{int(target.min())} to {int(target.max())}"
        raise IndexError(f"a target must be from 0 to {logits.shape[1] - 1}, got {found}")
    logprob, total = torch.empty((2, len(target)), dtype=torch.float32)
    arrays = (target.contiguous(), logprob, total)
    call(
        "score",
        logits,
        logits.data_ptr(),
        logits.stride(0),
        *(x.data_ptr() for x in arrays),
        *logits.shape,
        temperature,
    )
    return logprob, total


def score_backward(
    logits: Float[Tensor, "R V"],
    target: Int[Tensor, "R"],
    total: Float[Tensor, "R"],
    change: Float[Tensor, "R"],
    temperature: float,
) -> Float[Tensor, "R V"]:
    """What changes of those log-probabilities mean for the logits."""
    out = torch.empty(logits.shape, dtype=logits.dtype)
    arrays = target.contiguous(), total.contiguous(), change.contiguous(), out
    addresses = (x.data_ptr() for x in arrays)
    call("score_backward", logits, logits.data_ptr(), logits.stride(0), *addresses, *logits.shape, temperature)
    return out
