"""The slot cache: keys and values of N rows, preallocated, with the tokens they belong to.

A row holds k tokens, an observation n. What the two agree on from the start is kept, the rest is fed again: one rule
for a new episode, the next token, a tool's answer, and a proposal that the environment did not commit. Rows that are
computed together occupy neighbouring slots, those that decode a prefix of them, so that attention reads a view and
copies nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WIDTH_STEP = 32
"""The width of the cache on a CPU is a multiple of this."""


class SlotCache:
    """Keys and values `[layers, 2, S, K, C, D]` and, on the host, which tokens each row holds.

    The store is allocated once for all L columns. On a CPU the view of it, `data`, has only as many columns C as are in
    use, a quarter more at a time: a batched product over rows and heads then reads one dense array, and no column that
    nobody needs. On a GPU, whose captured steps know addresses, C is L + 1 from the start: no row fills the last one,
    so rows that have nothing to say write there.
    """

    def __init__(self, num_rows: int, num_columns: int, shape: tuple[int, int, int], like: Tensor) -> None:
        layers, heads, size = shape
        self._shape = (layers, 2, num_rows, heads)
        self._size = size
        self.tokens = np.zeros((num_rows, num_columns), np.int64)
        self.held = np.zeros(num_rows, np.int64)
        self.slot = np.arange(num_rows)
        self.grows = like.device.type == "cpu"
        self._store = like.new_empty(layers * 2 * num_rows * heads * (num_columns + 1) * size)
        self.filled = 0
        self.data = self._view(0)
        if not self.grows:
            self.widen(num_columns + 1)
            self.filled = 0

    @staticmethod
    def num_bytes(num_rows: int, num_columns: int, shape: tuple[int, int, int], dtype: torch.dtype) -> int:
        """Memory that a cache of that size takes."""
        layers, heads, size = shape
        return layers * 2 * num_rows * heads * (num_columns + 1) * size * dtype.itemsize

    def _view(self, width: int) -> Tensor:
        shape = (*self._shape, width, self._size)
        return self._store[: int(np.prod(shape))].view(shape)

    def widen(self, width: int) -> None:
        """Have at least `width` columns, about to be filled; new ones hold 0 (they are read, with probability 0)."""
        self.filled = max(self.filled, width)
        old = self.data
        have = old.shape[4]
        if width <= have:
            return
        width = -(-max(width, have * 5 // 4) // WIDTH_STEP) * WIDTH_STEP
        self.data = self._view(min(width, self.num_columns + 1))
        for layer in reversed(range(len(old))):  # from the end: what is moved lands behind all that still waits
            for part in (1, 0):
                moved = old[layer, part].clone()
                self.data[layer, part, :, :, :have] = moved
                self.data[layer, part, :, :, have:] = 0

    @property
    def num_rows(self) -> int:
        return len(self.held)

    @property
    def num_columns(self) -> int:
        return self.tokens.shape[1]

    def clear(self) -> None:
        """Forget everything: the weights have changed."""
        self.held[:] = 0
        self.filled = 0
        if self.grows:
            self.data = self._view(0)

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

    def gather_slots(self, rows: np.ndarray) -> int:
        """Have `rows` in neighbouring slots, wherever they are if they already do; returns the first of these."""
        slots = self.slot[rows]
        first = int(slots.min())
        if int(slots.max()) - first + 1 == len(rows):
            return first
        self.bring_forward(rows)
        return 0

    def _swap(self, far: np.ndarray, near: np.ndarray) -> None:
        there, here = self.slot[far], self.slot[near]
        source = torch.from_numpy(np.concatenate([there, here])).to(self.data.device)
        target = torch.from_numpy(np.concatenate([here, there])).to(self.data.device)
        used = self.filled
        self.data[:, :, target, :, :used] = self.data[:, :, source, :, :used]
        self.slot[far], self.slot[near] = here, there

    def copy_prefix(self, source: np.ndarray, target: np.ndarray, used: int) -> None:
        """Give the rows `target` the first `used` columns of the rows `source`."""
        slots = (torch.from_numpy(self.slot[rows]).to(self.data.device) for rows in (source, target))
        from_slots, to_slots = slots
        self.data[:, :, to_slots, :, :used] = self.data[:, :, from_slots, :, :used]

    def remember(self, rows: np.ndarray, columns: np.ndarray, tokens: np.ndarray) -> None:
        """Note that `rows` now hold `tokens` at `columns` (all flat, columns ascending within a row)."""
        self.tokens[rows, columns] = tokens
        np.maximum.at(self.held, rows, columns + 1)
