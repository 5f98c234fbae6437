"""The slot cache: keys and values of N rows, preallocated, with the tokens they belong to.

A row holds k tokens, an observation n. What the two agree on from the start is kept, the rest is fed again: one rule
for a new episode, the next token, a tool's answer, and a proposal that the environment did not commit. Live rows always
occupy a prefix of the slots, so that attention reads a view and copies nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class SlotCache:
    """Keys and values `[layers, 2, S, L, K, D]` and, on the host, which tokens each row holds."""

    def __init__(self, num_rows: int, num_columns: int, shape: tuple[int, int, int], like: Tensor) -> None:
        layers, heads, size = shape
        self.data = like.new_zeros(layers, 2, num_rows, num_columns, heads, size)
        self.tokens = np.zeros((num_rows, num_columns), np.int64)
        self.held = np.zeros(num_rows, np.int64)
        self.slot = np.arange(num_rows)

    @property
    def num_rows(self) -> int:
        return len(self.held)

    @property
    def num_columns(self) -> int:
        return self.tokens.shape[1]

    def clear(self) -> None:
        """Forget everything: the weights have changed."""
        self.held[:] = 0

    def agree(self, tokens: np.ndarray, length: np.ndarray, rows: np.ndarray) -> None:
        """Keep, of each of `rows`, the prefix that equals the observation, short of its last token (whose logits are
        wanted)."""
        columns = np.arange(tokens.shape[1])
        same = (self.tokens[rows, : tokens.shape[1]] == tokens[rows]) & (columns < self.held[rows, None])
        self.held[rows] = np.minimum(np.logical_and.accumulate(same, axis=1).sum(1), length[rows] - 1)

    def bring_forward(self, rows: np.ndarray) -> np.ndarray:
        """Move `rows` into the first slots; returns the slot of each, a permutation of 0..len(rows)-1."""
        chosen = np.zeros(self.num_rows, bool)
        chosen[rows] = True
        far = rows[self.slot[rows] >= len(rows)]
        others = np.flatnonzero(~chosen)
        near = others[self.slot[others] < len(rows)]
        if len(far):
            self._swap(far, near)
        return self.slot[rows]

    def _swap(self, far: np.ndarray, near: np.ndarray) -> None:
        used = int(max(self.held[far].max(), self.held[near].max()))
        there, here = self.slot[far], self.slot[near]
        source = torch.from_numpy(np.concatenate([there, here])).to(self.data.device)
        target = torch.from_numpy(np.concatenate([here, there])).to(self.data.device)
        self.data[:, :, target, :used] = self.data[:, :, source, :used]
        self.slot[far], self.slot[near] = here, there

    def copy_prefix(self, source: np.ndarray, target: np.ndarray, used: int) -> None:
        """Give the rows `target` the first `used` columns of the rows `source`."""
        slots = (torch.from_numpy(self.slot[rows]).to(self.data.device) for rows in (source, target))
        from_slots, to_slots = slots
        self.data[:, :, to_slots, :used] = self.data[:, :, from_slots, :used]

    def remember(self, rows: np.ndarray, columns: np.ndarray, tokens: np.ndarray) -> None:
        """Note that `rows` now hold `tokens` at `columns` (all flat, columns ascending within a row)."""
        self.tokens[rows, columns] = tokens
        np.maximum.at(self.held, rows, columns + 1)
