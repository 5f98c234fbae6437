"""The comparison in a process of its own: what outgrows its memory fails alone, and the parent keeps the time."""

from __future__ import annotations

import functools
import resource

from rewards.math.equivalence import Verdict, judge
from rewards.math.pair import Pair

MAX_MEMORY_BYTES = 2 << 30


def judge_alone(pair: Pair) -> Verdict:
    """As `judge`, with at most 2 GiB of address space from the first call on."""
    _limit_memory()
    return judge(pair)


@functools.cache
def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
