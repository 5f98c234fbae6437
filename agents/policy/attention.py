"""One attention function for acting and training, registered with transformers under the name `textenv`.

Every forward is one packed row of tokens, `input_ids [1, T]`, without padding and without a mask; what may see what
travels beside it as a *view*, a keyword argument that transformers hands through to this function. Two views exist:

- `PackedView` (training, scoring): keys and values are gathered from the packed row itself, so that the completions
  of a group share one copy of their prompt. Plain autograd; the backward of a gather is an `index_add`.
- `CachedView` (acting): the new keys and values are written into a preallocated slot cache and read back from it.

Queries of one key/value head are packed into the query axis, so grouped-query attention never repeats keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "textenv"

REFUSED = ("softcap", "s_aux")
"""Variants that this function does not compute; silently ignoring one would train a different model."""

PLAIN_SCORES = 2**25
"""Most scores of a layer, over all rows and heads, that are computed as one array (64 MB in bfloat16)."""


class UnsupportedAttention(NotImplementedError):
    """The model asks for an attention variant that is not computed here."""


@dataclass(frozen=True, slots=True)
class Block:
    """B sequences of queries, padded to Lq, each seeing up to Lk keys. Padded queries stand at position 0, see
    key 0 and are never read: a row that sees nothing would be NaN in the backward pass."""

    query: Int[Tensor, "B Lq"]
    """Where each query stands in the packed row."""
    key: Int[Tensor, "B Lk"]
    """Where each key stands in the packed row."""
    query_position: Int[Tensor, "B Lq"]
    key_position: Int[Tensor, "B Lk"]
    visible: Bool[Tensor, "B Lq Lk"]


@dataclass(frozen=True, slots=True)
class PackedView:
    """Blocks over the packed row, and where each packed token finds its output in the concatenated blocks."""

    blocks: tuple[Block, ...]
    output: Int[Tensor, "T"]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
        """`q [T, H, D]`, `k`, `v [T, K, D]` to `[T, H, D]`."""
        outputs = []
        for block in self.blocks:
            seen = within(window, block.visible, block.query_position, block.key_position)
            out = grouped_attention(q[block.query], k[block.key], v[block.key], seen, scale)
            outputs.append(out.flatten(0, 1))
        return torch.cat(outputs)[self.output]


@dataclass(frozen=True, slots=True)
class CachedView:
    """New tokens of B sequences; sequence b lives in slot b of `cache`: a prefix of the slots, so nothing is copied."""

    cache: Float[Tensor, "layers 2 S L K D"]
    slot: Int[Tensor, "T"]
    position: Int[Tensor, "T"]
    """Slot and column that each new token is written to."""
    query: Int[Tensor, "B Lq"]
    query_position: Int[Tensor, "B Lq"]
    output: Int[Tensor, "T"]
    num_keys: int
    """Columns of the cache that are read: at least every query's position plus one."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None) -> Tensor:
        """As `PackedView.attend`, over the cache."""
        self.cache[layer, 0, self.slot, self.position] = k
        self.cache[layer, 1, self.slot, self.position] = v
        keys, values = self.cache[layer, :, : len(self.query), : self.num_keys]
        key_position = torch.arange(self.num_keys, device=q.device)[None]
        visible = key_position[:, None, :] <= self.query_position[:, :, None]
        seen = within(window, visible, self.query_position, key_position)
        return grouped_attention(q[self.query], keys, values, seen, scale).flatten(0, 1)[self.output]


def within(window: int | None, visible: Tensor, query_position: Tensor, key_position: Tensor) -> Tensor:
    """`visible [B, Lq, Lk]`, narrowed to a sliding window of that many keys where the layer has one."""
    if window is None:
        return visible
    return visible & (query_position[:, :, None] - key_position[:, None, :] < window)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float | None) -> Tensor:
    """`q [B, Lq, H, D]`, `k`, `v [B, Lk, K, D]`, `visible [B, Lq, Lk]` to `[B, Lq, H, D]`; H is a multiple of K."""
    num_rows, num_queries, num_heads, size = q.shape
    group = num_heads // k.shape[2]
    q = q.unflatten(2, (-1, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, K, group * Lq, D]
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    mask = visible[:, None].repeat(1, 1, group, 1)
    if q.device.type == "cpu" and num_rows * num_queries * num_heads * k.shape[2] <= PLAIN_SCORES:
        out = plain_attention(q, k, v, mask, size**-0.5 if scale is None else scale)
    else:
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.unflatten(2, (group, num_queries)).permute(0, 3, 1, 2, 4).reshape(num_rows, num_queries, num_heads, -1)


def plain_attention(
    q: Float[Tensor, "B K Q D"],
    k: Float[Tensor, "B K L D"],
    v: Float[Tensor, "B K L D"],
    visible: Bool[Tensor, "B 1 Q L"],
    scale: float,
) -> Float[Tensor, "B K Q D"]:
    """Attention as two batched products with the scores whole in memory.

    For short sequences on a CPU: torch's fused kernel has one task per head and row, and its backward in bfloat16
    takes 6 to 8 times as long as this, a quarter of an update at 135M.
    """
    hidden = torch.zeros(visible.shape, dtype=q.dtype, device=q.device).masked_fill_(~visible, float("-inf"))
    bias = hidden.expand(-1, q.shape[1], -1, -1).flatten(0, 1)
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
    view: PackedView | CachedView | None = None,
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
