"""Calls made in the trainer's own process, for rewards whose cost is bounded, or whose user chose so.

A plain function has no time limit here; a coroutine is cancelled at its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rewards.errors import Cancelled, Failure, failure_of

LOOK_SECONDS = 0.05
"""How often one that waits looks whether it was told to stop."""


def run_inline(
    function: Any, calls: Sequence[Any], *, timeout_seconds: float, cancelled: threading.Event | None = None
) -> list[Any]:
    """The answers in order, a `Failure` where a call raised or a coroutine overran its limit.

    Raises `Cancelled` when `cancelled` is set meanwhile: between two calls, or in the midst of coroutines.
    """
    if function.is_async:
        return run_coroutine(lambda: _gather(function, calls, timeout_seconds, cancelled))
    answers = []
    for call in calls:
        refuse_cancelled(cancelled)
        answers.append(_attempt(function, call))
    return answers


def refuse_cancelled(cancelled: threading.Event | None) -> None:
    """Raise `Cancelled` where it is set."""
    if cancelled is not None and cancelled.is_set():
        raise Cancelled("the scores were given up")


def _attempt(function: Callable[[Any], Any], call: Any) -> Any:
    try:
        return function(call)
    except Exception as error:  # noqa: BLE001 - any exception of a reward is its failure
        return failure_of(error)


async def _gather(
    function: Any, calls: Sequence[Any], timeout_seconds: float, cancelled: threading.Event | None
) -> list[Any]:
    answers = asyncio.gather(*(attempt_async(function, call, timeout_seconds) for call in calls))
    while cancelled is not None and not answers.done():
        if cancelled.is_set():
            answers.cancel()  # the loop that ends now sees to the rest
            refuse_cancelled(cancelled)
        await asyncio.wait([answers], timeout=LOOK_SECONDS)
    return list(await answers)


async def attempt_async(function: Any, call: Any, timeout_seconds: float) -> Any:
    """One awaited call: its answer, or the `Failure` it came to."""
    try:
        return await asyncio.wait_for(function.call_async(call), timeout_seconds)
    except TimeoutError:
        return Failure(f"no answer within {timeout_seconds:g} s", timed_out=True)
    except Exception as error:  # noqa: BLE001 - any exception of a reward is its failure
        return failure_of(error)


def run_coroutine(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The result of a coroutine, also where this thread already runs a loop (a notebook): in a private thread then."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(make())))
    thread.start()
    thread.join()
    return results[0]
