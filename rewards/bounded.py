"""Calls that may hang, made in one killable worker process that the whole program shares.

For rewards that bound themselves: a direct call, from any thread, is then as safe as one through a `Scorer`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from rewards import worker_process
from rewards.workers import Pool


def bounded(function: Callable[[Any], Any], calls: Sequence[Any], *, timeout_seconds: float) -> list[Any]:
    """`function(call)` of each, in order; a `Failure` where it raised, overran its wall time or lost its process.

    Function and calls must be picklable. Inside a worker process they are made here, without a limit: whoever sent
    them keeps the time.
    """
    if worker_process.inside_worker:
        return [function(call) for call in calls]
    return _pool().run("apply", [(function, call) for call in calls], timeout_seconds=timeout_seconds)


def _apply(pair: tuple[Callable[[Any], Any], Any]) -> Any:
    function, call = pair
    return function(call)


@functools.cache
def _pool() -> Pool:
    return Pool({"apply": _apply})
