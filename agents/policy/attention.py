"""One attention function for acting and training, registered with transformers under the name `textenv`.

Every forward is one packed row of tokens, `input_ids [1, T]`, without padding and without a mask; what may see what
travels beside it as a *view*, a keyword argument that transformers hands through to this function. Two views exist:

- `PackedView` (training, scoring): keys and values are gathered from the packed row itself, so that the completions
  of a group share one copy of their prompt. Plain autograd; the backward of a gather is an `index_add`.
- `CachedView` (acting, any number of new tokens a row): the new keys and values are written into a preallocated slot
  cache and read back from it.
- `NextView` (acting, one new token a row): the same without an index, its shapes known beforehand.

Queries of one key/value head are packed into the query axis, so grouped-query attention never repeats keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from agents.policy import kernels
from agents.policy.gradients import Collect, Spread
from agents.policy.route import Route, route_of

NAME = "textenv"

REFUSED = ("softcap", "s_aux")
"""Variants that this function does not compute; silently ignoring one would train a different model."""

PLAIN_SCORES = 2**25
"""Most scores of a layer, over all rows and heads, that are computed as one array (64 MB in bfloat16)."""


class UnsupportedAttention(NotImplementedError):
    """The model asks for an attention variant that is not computed here."""


class Sight:
    """Which of Lk keys each of Lq queries sees, and the mask of it that attention adds to its scores: made once for all
    layers that look equally far."""

    def __init__(
        self, visible: Bool[Tensor, "B Lq Lk"], query_position: Int[Tensor, "B Lq"], key_position: Int[Tensor, "#B Lk"]
    ) -> None:
        self.visible, self.query_position, self.key_position = visible, query_position, key_position
        self._bias: dict[tuple[int | None, int, torch.dtype, int], Tensor] = {}

    def to(self, device: torch.device) -> Sight:
        """The same on `device`."""
        arrays = (self.visible, self.query_position, self.key_position)
        return Sight(*(x.to(device, non_blocking=True) for x in arrays))

    def bias(self, window: int | None, group: int, dtype: torch.dtype, heads: int = 1) -> Float[Tensor, "BK GQ Lk"]:
        """0 where a query sees a key (`window`: one of that many before it), -inf elsewhere, for `group` query heads
        of a key/value head one after the other, and for each of `heads` of those."""
        key = (window, group, dtype, heads)
        if key not in self._bias:
            seen = self.visible
            if window is not None:
                seen = seen & (self.query_position[:, :, None] - self.key_position[:, None, :] < window)
            hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
            self._bias[key] = hidden[:, None].repeat(1, heads, group, 1).flatten(0, 1)
        return self._bias[key]


@dataclass(frozen=True, slots=True)
class Block:
    """B sequences of queries, padded to Lq, each seeing up to Lk keys. Padded queries stand at position 0, see
    key 0 and are never read: a row that sees nothing would be NaN in the backward pass."""

    query: Int[Tensor, "B Lq"]
    """Where each query stands in the packed row."""
    key: Int[Tensor, "B Lk"]
    """Where each key stands in the packed row."""
    sight: Sight


@dataclass(frozen=True)
class PackedView:
    """Blocks over the packed row, and where each packed token finds its output in the concatenated blocks."""

    blocks: tuple[Block, ...]
    output: Int[Tensor, "T"]

    @cached_property
    def routes(self) -> list[tuple[Route, Route]]:
        """Of queries and keys, block by block."""
        there = torch.zeros(sum(block.query.numel() for block in self.blocks), dtype=torch.bool)
        there[self.output] = True
        parts = there.split([block.query.numel() for block in self.blocks])
        return [
            (
                route_of(block.query, part.view_as(block.query), len(self.output)),
                route_of(block.key, block.sight.visible.any(1), len(self.output)),
            )
            for block, part in zip(self.blocks, parts, strict=True)
        ]

    def _attend_by_kernels(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
        outputs = []
        for block, (queries, keys) in zip(self.blocks, self.routes, strict=True):
            query, key, value = (Spread.apply(x, route) for x, route in ((q, queries), (k, keys), (v, keys)))
            outputs.append(headwise_attention(query, key, value, block.sight, scale, window))
        return Collect.apply(tuple(queries for queries, _ in self.routes), *outputs)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
        """`q [T, H, D]`, `k`, `v [T, K, D]` to `[T, H, D]`."""
        if kernels.fit(q, k, v):
            return self._attend_by_kernels(q, k, v, scale, window)
        outputs = []
        for block in self.blocks:
            keys, values = k[block.key].transpose(1, 2), v[block.key].transpose(1, 2)
            out = grouped_attention(q[block.query], keys, values, block.sight, scale, window)
            outputs.append(out.flatten(0, 1))
        return torch.cat(outputs)[self.output]


@dataclass(frozen=True)
class CachedView:
    """New tokens of B sequences; sequence b lives in slot b of `cache`, so that nothing is copied."""

    cache: Float[Tensor, "layers 2 S K C D"]
    slot: Int[Tensor, "T"]
    position: Int[Tensor, "T"]
    """Slot and column that each new token is written to."""
    query: Int[Tensor, "B Lq"]
    sight: Sight
    """Over the first columns of the cache."""
    output: Int[Tensor, "T"]

    @property
    def column(self) -> Int[Tensor, "T"]:
        """Where each new token is written to: a text begins in the first column."""
        return self.position

    @cached_property
    def route(self) -> Route:
        """Of queries."""
        there = torch.zeros(self.query.numel(), dtype=torch.bool)
        there[self.output] = True
        return route_of(self.query, there.view_as(self.query), len(self.output))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
        """As `PackedView.attend`, over the cache."""
        self.cache[layer, 0, self.slot, :, self.position] = k
        self.cache[layer, 1, self.slot, :, self.position] = v
        num_keys = self.sight.visible.shape[-1]
        keys, values = self.cache[layer, :, : len(self.query), :, :num_keys]
        if kernels.suit(q, self.cache):
            spread = kernels.spread(q, self.route.index)
            out = headwise_attention(spread, keys, values, self.sight, scale, window)
            return Collect.apply((self.route,), out)
        return grouped_attention(q[self.query], keys, values, self.sight, scale, window).flatten(0, 1)[self.output]


class NextView:
    """One new token in each of the slots 0 to B - 1."""

    def __init__(
        self,
        cache: Float[Tensor, "layers 2 S K C D"],
        position: Int[Tensor, "B"],
        column: Int[Tensor, "B"],
        num_keys: int,
    ) -> None:
        self.cache, self.position, self.column = cache, position, column
        self.slot = torch.arange(len(position), device=position.device)
        key_position = torch.arange(num_keys, device=position.device)[None]
        query_position = position[:, None]
        self.sight = Sight(key_position[:, None] <= query_position[:, :, None], query_position, key_position)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
        """As `PackedView.attend`, T = B."""
        if kernels.suit(q, k, v, self.cache):
            scale = q.shape[-1] ** -0.5 if scale is None else scale
            return kernels.attend(q, k, v, self.cache[layer], self.column, self.position, scale, window)
        keys, values = self.cache[layer].unbind(0)
        keys[self.slot, :, self.column] = k
        values[self.slot, :, self.column] = v
        num_rows, num_keys = len(q), self.sight.visible.shape[-1]
        queries = q.view(num_rows, k.shape[1], -1, q.shape[-1])
        keys, values = keys[:num_rows, :, :num_keys], values[:num_rows, :, :num_keys]
        return attention(queries, keys, values, self.sight, scale, window).flatten(1, 2)


class Overheard:
    """A view that notes what scale and window each layer asks for."""

    def __init__(self, view: PackedView) -> None:
        self.view = view
        self.asked: dict[int, tuple[float | None, int | None]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
        """As the view's own."""
        self.asked[layer] = scale, window
        return self.view.attend(layer, q, k, v, scale, window)


View = PackedView | CachedView | NextView | Overheard


def grouped_attention(
    q: Float[Tensor, "B Lq H D"],
    k: Float[Tensor, "B K Lk D"],
    v: Float[Tensor, "B K Lk D"],
    sight: Sight,
    scale: float | None,
    window: int | None = None,
) -> Float[Tensor, "B Lq H D"]:
    """Attention in which H / K query heads share a key/value head, packed into the query axis."""
    return headwise_attention(q.transpose(1, 2), k, v, sight, scale, window).transpose(1, 2)


def headwise_attention(
    q: Float[Tensor, "B H Lq D"],
    k: Float[Tensor, "B K Lk D"],
    v: Float[Tensor, "B K Lk D"],
    sight: Sight,
    scale: float | None,
    window: int | None = None,
) -> Float[Tensor, "B H Lq D"]:
    """The same for queries that lie head by head."""
    out = attention(q.unflatten(1, (k.shape[1], -1)).flatten(2, 3), k, v, sight, scale, window)
    return out.reshape(q.shape)


def attention(
    q: Float[Tensor, "B K Q D"],
    k: Float[Tensor, "B K Lk D"],
    v: Float[Tensor, "B K Lk D"],
    sight: Sight,
    scale: float | None,
    window: int | None,
) -> Float[Tensor, "B K Q D"]:
    """Attention within each of K heads; Q is a multiple of the queries in `sight`."""
    num_rows, heads, num_queries, size = q.shape
    group = num_queries // sight.visible.shape[1]
    if q.device.type == "cpu" and num_rows * heads * num_queries * k.shape[2] <= PLAIN_SCORES:
        bias = sight.bias(window, group, q.dtype, heads)
        return plain_attention(q, k, v, bias, size**-0.5 if scale is None else scale)
    bias = sight.bias(window, group, q.dtype)[:, None]
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def plain_attention(
    q: Float[Tensor, "B K Q D"],
    k: Float[Tensor, "B K L D"],
    v: Float[Tensor, "B K L D"],
    bias: Float[Tensor, "BK Q L"],
    scale: float,
) -> Float[Tensor, "B K Q D"]:
    """Attention as two batched products with the scores whole in memory.

    For short sequences on a CPU: torch's fused kernel has one task per head and row, and its backward in bfloat16
    takes 6 to 8 times as long as this, a quarter of an update at 135M.
    """
    scores = torch.baddbmm(bias, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).unflatten(0, q.shape[:2])


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    view: View | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """What transformers calls: `query [1, H, T, D]`, `key`, `value [1, K, T, D]` to `[1, T, H, D]`.

    Raises `UnsupportedAttention` for variants in `REFUSED`, for dropout, and when called without a view.
    """
    for name in REFUSED:
        if options.get(name) is not None:
            raise UnsupportedAttention(f"attention with {name}={options[name]} is not computed by the packed path")
    if view is None or dropout:
        raise UnsupportedAttention(f"the packed path needs a view and no dropout, got dropout={dropout}")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    layer = module.layer_idx
    assert isinstance(layer, int)
    return view.attend(layer, q, k, v, scaling, sliding_window)[None], None


AttentionInterface.register(NAME, attend)
