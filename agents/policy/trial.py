"""A model tried out on two short texts: do the ways in which it is run here give what it gives by itself?

The tokens of both stand in one packed row in turn, so that a model which takes positions from where tokens stand is
found out. What lies further back than eight tokens cannot be tried so: there the settings are asked.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.policy.attention import Block, CachedView, PackedView, Sight

LENGTH = 8
NARROW = ("sliding_attention", "chunked_attention")
"""What transformers calls layers that look back less far than the text is long."""


def short_texts(
    vocabulary: int, device: torch.device
) -> tuple[Int[Tensor, "2 L"], Int[Tensor, "T"], Int[Tensor, "T"], PackedView]:
    """Two texts; their tokens and positions as one packed row, and the view in which each text sees itself."""
    texts = torch.arange(1, 2 * LENGTH + 1, device=device).view(2, LENGTH) % vocabulary
    position = torch.arange(LENGTH, device=device).repeat_interleave(2)
    return texts, in_turn(texts), position, causal_view(2, LENGTH, device)


def in_turn(x: Tensor) -> Tensor:
    """From `[texts, length, ...]` to one row: all that comes first, then all that comes second.

    >>> in_turn(torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist()
    [1, 4, 2, 5, 3, 6]
    """
    return x.transpose(0, 1).flatten(0, 1)


def causal_view(num_texts: int, length: int, device: torch.device) -> PackedView:
    """Texts of one length, their tokens in turn, each of which sees itself."""
    place = torch.arange(num_texts * length, device=device)
    index = place.view(length, num_texts).T.contiguous()
    return PackedView((Block(index, index, causal_sight(num_texts, length, device)),), in_turn(place.view(-1, length)))


def causal_sight(num_texts: int, length: int, device: torch.device) -> Sight:
    """Of texts of one length."""
    position = torch.arange(length, device=device).expand(num_texts, -1)
    return Sight(position[:, None, :] <= position[:, :, None], position, position)


def reading_view(cache: Float[Tensor, "layers 2 S K C D"], length: int) -> CachedView:
    """Texts of one length, one after the other, that are read into all slots of an empty cache."""
    slots = cache.shape[2]
    index = torch.arange(slots * length, device=cache.device).view(slots, length)
    sight = causal_sight(slots, length, cache.device)
    return CachedView(cache, index.flatten() // length, index.flatten() % length, index, sight, index.flatten())


def difference(logits: Tensor, expected: Tensor) -> str | None:
    """What is wrong with `logits`, or None when they equal `expected` up to their number format.

    In half precision single positions may differ by as much as the logits themselves (a text of arbitrary tokens is
    where a model's largest activations cancel), so there the typical position decides.
    """
    error = (logits.float() - expected.float()).abs().amax(-1)
    half = expected.dtype in (torch.bfloat16, torch.float16)
    worst, tolerance = float(error.median() if half else error.max()), 0.25 if half else 1e-3
    return None if worst <= tolerance * float(expected.float().std()) else f"logits differ by {worst:.3g}"


def silent_windows(config: object, windows: Mapping[int, int | None], *, masked: bool) -> str | None:
    """What is wrong where layers look back less far than there are positions and have asked for no window: they hide
    the rest by a mask, which is not computed here. `masked`: whether such masks are made by the model's code."""
    width = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    most = getattr(config, "max_position_embeddings", None)
    if not width or (most is not None and width >= most):
        return None
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        silent = any(kind in NARROW and windows.get(layer, 0) is None for layer, kind in enumerate(kinds))
    else:
        silent = masked and all(window is None for window in windows.values())
    return f"layers that look back {width} tokens ask for no window" if silent else None
