"""Bringing a model's state up to an observation, and one token further: with the slot cache, or without one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.policy.attention import CachedView, NextView, Sight
from agents.policy.cache import SlotCache
from agents.policy.model import LanguageModel
from agents.policy.packing import distinct_prompts, ramp

PREFILL_TOKENS = (2048, 16384)
"""Prompt tokens that are computed at once, on a CPU and on a GPU: enough for full speed, with small activations."""
KEY_STEP = 256
"""On a GPU a step reads a multiple of this many columns: each number is one captured graph."""


class CachedReader:
    """Feeds the tokens that the cache does not hold yet; returns the hidden state after each row's last."""

    def __init__(self, model: LanguageModel, cache: SlotCache, tokens: np.ndarray) -> None:
        self.model, self.cache, self.tokens = model, cache, tokens

    def read(self, length: np.ndarray, rows: np.ndarray) -> Tensor:
        """Bring `rows` up to their observations. Of rows with the same tokens, all new or several, one is computed."""
        cache = self.cache
        cache.agree(self.tokens, length, rows)
        held = cache.held[rows]
        begun = (held == 0) | (length[rows] - held > 1)
        fresh = rows[begun]
        owner, first = distinct_prompts(self.tokens[fresh], length[fresh])
        feed = np.concatenate([fresh[first], rows[~begun]])
        place = np.empty(cache.num_rows, np.int64)  # where each row's state stands among those that are computed
        states: list[Tensor] = []
        computed = 0
        most = PREFILL_TOKENS[cache.data.device.type == "cuda"]
        new = (length - cache.held)[feed]
        parts = split_evenly(feed[new > 1], new[new > 1], most) + split_evenly(feed[new == 1], new[new == 1], most)
        for part in parts:
            count = (length - cache.held)[part]
            column = ramp(count) + np.repeat(cache.held[part], count)
            part_rows, hidden = self._feed(part, np.repeat(part, count), column)
            place[part_rows] = computed + np.arange(len(part))
            computed += len(part)
            states.append(hidden)
        if len(fresh) > len(first):
            source = fresh[first][owner]
            other = source != fresh
            self._share(source[other], fresh[other], length)
            place[fresh] = place[source]
        return torch.cat(states)[torch.from_numpy(place[rows]).to(states[0].device)]

    def arrange(self, rows: np.ndarray) -> np.ndarray:
        """Give `rows` the first slots; returns the order in which they stand there (positions in `rows`)."""
        return np.argsort(self.cache.bring_forward(rows))

    def make_room(self, longest: int) -> int:
        """Have room for `longest` tokens a row and one more; returns how many columns a step shall read."""
        self.cache.widen(longest + 1)
        if self.cache.grows:
            return self.cache.data.shape[4]
        return min(-(-longest // KEY_STEP) * KEY_STEP, self.cache.data.shape[4])

    def next_states(self, token: Tensor, position: Tensor, going: Tensor, num_keys: int) -> Tensor:
        """States after one more token in each of the first slots.

        Rows that are not `going` are computed but leave nothing behind. No index here depends on a number that only
        the device knows, so that the call can be captured.
        """
        here = torch.where(going, position, 0)
        nowhere = self.cache.data.shape[4] - 1  # a column that no row has reached yet
        column = torch.where(going, position, nowhere)
        return self.model.states(token, here, NextView(self.cache.data, here, column, num_keys))

    def committed(self, rows: np.ndarray, columns: np.ndarray, tokens: np.ndarray) -> None:
        """Note what `next_states` has been given (flat, columns ascending within a row)."""
        self.cache.remember(rows, columns, tokens)

    def _share(self, source: np.ndarray, sibling: np.ndarray, length: np.ndarray) -> None:
        self.cache.copy_prefix(source, sibling, int(length[source].max()))
        count = length[sibling]
        flat_rows, columns = np.repeat(sibling, count), ramp(count)
        self.cache.remember(flat_rows, columns, self.tokens[flat_rows, columns])

    def _feed(self, rows: np.ndarray, flat_rows: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """One forward over flat `(row, column)` tokens; rows come back ordered by slot."""
        if len(flat_rows) == len(rows):
            return self._feed_next(rows, column)
        first = self.cache.gather_slots(rows)
        slot = self.cache.slot[rows]
        self.cache.widen(int(column.max()) + 1)
        order = np.argsort(slot)
        by_slot = np.argsort(self.cache.slot[flat_rows], kind="stable")
        flat_rows, column = flat_rows[by_slot], column[by_slot]
        token = self.tokens[flat_rows, column].astype(np.int64)
        count = np.bincount(self.cache.slot[flat_rows] - first, minlength=len(rows))
        start = np.cumsum(count) - count
        width = ramp(np.array([count.max()]))
        inside = width < count[:, None]
        query = np.where(inside, start[:, None] + width, start[:, None])
        query_position = np.where(inside, column[query], 0)
        num_keys = int(column.max()) + 1
        key_position = np.arange(num_keys)[None]
        output = np.repeat(np.arange(len(rows)) * len(width), count) + ramp(count)
        arrays = (token, self.cache.slot[flat_rows] - first, column, query, output, query_position, key_position)
        device = self.cache.data.device
        ids, slots, positions, queries, outputs, seeing, seen = (torch.from_numpy(a).to(device) for a in arrays)
        sight = Sight(seen[:, None, :] <= seeing[:, :, None], seeing, seen)
        view = CachedView(self.cache.data[:, :, first:], slots, positions, queries, sight, outputs)
        hidden = self.model.states(ids, positions, view)
        self.cache.remember(flat_rows, column, token)
        return rows[order], hidden[torch.from_numpy(np.cumsum(count) - 1).to(device)]

    def _feed_next(self, rows: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """The same for one token a row, as when decoding."""
        order = self.arrange(rows)
        rows, column = rows[order], column[order]
        token = self.tokens[rows, column].astype(np.int64)
        num_keys = self.make_room(int(column.max()) + 1)
        device = self.cache.data.device
        ids, position = (torch.from_numpy(a).to(device) for a in (token, column))
        hidden = self.next_states(ids, position, torch.ones_like(ids, dtype=torch.bool), num_keys)
        self.cache.remember(rows, column, token)
        return rows, hidden


class PaddedReader:
    """The same verbs for models without the packed path: every call computes the rows from their start."""

    def __init__(self, model: LanguageModel, tokens: np.ndarray) -> None:
        self.model, self.tokens = model, torch.from_numpy(tokens.astype(np.int64)).to(model.weight.device)
        self.rows = np.arange(len(tokens))

    def read(self, length: np.ndarray, rows: np.ndarray) -> Tensor:
        """Hidden states after each row's last token."""
        self.rows = rows
        return self._states(torch.from_numpy(length[rows]).to(self.tokens.device))

    def arrange(self, rows: np.ndarray) -> np.ndarray:
        """As they are."""
        self.rows = rows
        return np.arange(len(rows))

    def make_room(self, longest: int) -> int:
        """There is always room."""
        return longest

    def next_states(self, token: Tensor, position: Tensor, going: Tensor, num_keys: int) -> Tensor:
        """States after one more token in each row."""
        rows = torch.from_numpy(self.rows).to(token.device)
        column = position.clamp(max=self.tokens.shape[1] - 1)
        self.tokens[rows, column] = torch.where(going, token, self.tokens[rows, column])
        return self._states(torch.where(going, position + 1, 1))

    def committed(self, rows: np.ndarray, columns: np.ndarray, tokens: np.ndarray) -> None:
        """Nothing is kept."""

    def _states(self, length: Tensor) -> Tensor:
        rows = torch.from_numpy(self.rows).to(self.tokens.device)
        states = self.model.padded_states(self.tokens[rows, : int(length.max())], length)
        return states[torch.arange(len(rows), device=states.device), length - 1]


def split_evenly(items: np.ndarray, size: np.ndarray, most: int) -> list[np.ndarray]:
    """Consecutive parts of `items`, as few as sizes of `most` a part would need and about equally large: a part exceeds
    `most` by less than its largest item.

    >>> [part.tolist() for part in split_evenly(np.arange(5), np.array([3, 3, 2, 3, 1]), 7)]
    [[0, 1], [2, 3, 4]]
    """
    if not len(items):
        return []
    ends = np.cumsum(size)
    num_parts = -(-int(ends[-1]) // most)
    part = ((2 * ends - size) * num_parts // (2 * ends[-1])).clip(0, num_parts - 1)
    return [items[part == number] for number in range(num_parts) if (part == number).any()]
