"""The decode loop: one token more for every row, until all rows have ended. The same on CPU and GPU.

On a CPU rows that have ended drop out at once. On a GPU the host looks every few steps only, and a step is a captured
CUDA graph, one for each number of rows and of columns it was met with: the host's part of a step, a thousand kernel
launches, becomes one call. Weights are changed in place, so graphs outlive an update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.policy.proposal import Proposals
from agents.policy.reading import CachedReader, PaddedReader
from agents.policy.sampling import Drawn

Draw = Callable[[Tensor, Proposals, int], Drawn]
Reader = CachedReader | PaddedReader


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the host looks, and the numbers of rows that steps are made for."""

    check_every: int = 1
    row_sizes: tuple[int, ...] = ()
    """Empty: every number; a step for a size between them computes the next larger one."""
    capture: bool = False
    """As CUDA graphs."""

    @staticmethod
    def of(device: torch.device) -> Pace:
        """What suits `device`."""
        if device.type != "cuda":
            return Pace()
        return Pace(check_every=8, row_sizes=(1, 2, 4, 8, 16, *range(32, 1025, 32)), capture=True)

    def size(self, num_rows: int, most: int) -> int:
        """Rows to compute for `num_rows` live ones, of `most` that there are."""
        if not self.row_sizes:
            return num_rows
        return min(min((size for size in self.row_sizes if size >= num_rows), default=most), most)


class Graphs:
    """Captured steps by what they were captured for. They hold the addresses of one cache and one `Proposals`."""

    def __init__(self) -> None:
        self.graphs: dict[Any, Any] = {}
        self.met: set[Any] = set()
        self.pool: Any = None
        """Of memory, one for all: what outlives a step lies outside."""

    def run(self, key: Any, step: Callable[[], None]) -> None:
        """The first time `step` is called (which warms it up), the second time captured, then replayed."""
        if key not in self.met:
            self.met.add(key)
            step()
            return
        if key not in self.graphs:
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Another thread may be scoring on the same GPU: its calls must not break the capture.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                step()
            self.graphs[key] = graph
        self.graphs[key].replay()


def decode(
    reader: Reader, proposals: Proposals, rows: np.ndarray, draw: Draw, pace: Pace, graphs: Graphs, kind: Any
) -> None:
    """Go on from a first token until no row is left or every row has `max_tokens`.

    `rows` stand in this order in the reader and in `proposals`. `kind` tells apart draws that are captured differently.
    """
    for done in range(1, proposals.max_tokens):
        if (done - 1) % pace.check_every == 0:
            kept = proposals.going_rows()
            if not len(kept):
                return
            if len(kept) < len(rows):
                kept = kept[reader.arrange(rows[kept])]
                proposals.keep(kept)
                rows = rows[kept]
        size, num_keys = pace.size(len(rows), proposals.spare), reader.make_room(proposals.longest + done)
        step = partial(advance, reader, proposals, draw, size, num_keys)
        if pace.capture:
            graphs.run((size, num_keys, kind), step)
        else:
            step()


def advance(reader: Reader, proposals: Proposals, draw: Draw, num_rows: int, num_keys: int) -> None:
    """One token more for the first `num_rows` rows; no number in it comes from the device."""
    token, position = proposals.token[:num_rows], proposals.position[:num_rows]
    state = reader.next_states(token, position, proposals.going(num_rows), num_keys)
    proposals.take(draw(state, proposals, num_rows))
