"""A comparison in a process of its own: what outgrows its memory fails alone, and the parent keeps the time."""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable
from dataclasses import dataclass

from rewards.math.pair import Pair, Verdict

MAX_MEMORY_BYTES = 2 << 30


@dataclass(frozen=True)
class Alone:
    """A judge whose process may have at most 2 GiB of address space from its first call on."""

    judge: Callable[[Pair], Verdict]

    def __call__(self, pair: Pair) -> Verdict:
        _limit_memory()
        return self.judge(pair)


@functools.cache
def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
