"""Calls made in the trainer's own process, for rewards whose cost is bounded, or whose user chose so.

A plain function has no time limit here; a coroutine is cancelled at its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rewards.errors import Cancelled, Failure, failure_of

LOOK_SECONDS = 0.05
"""How often one that waits looks whether it was told to stop."""


class Answered(NamedTuple):
    """What one call came to, and when."""

    answer: Any
    """What the function returned, or the `Failure` it came to."""
    seconds: float
    """The call's own time."""
    queued_seconds: float = 0.0
    """From the moment it was asked for to its beginning."""


def run_inline(
    function: Any, calls: Sequence[Any], *, timeout_seconds: float, cancelled: threading.Event | None = None
) -> list[Answered]:
    """The answers in order, a `Failure` where a call raised or a coroutine overran its limit.

    Raises `Cancelled` when `cancelled` is set meanwhile: between two calls, or in the midst of coroutines.
    """
    if function.is_async:
        return run_coroutine(lambda: _gather(function, calls, timeout_seconds, cancelled))
    asked, answers = time.perf_counter(), []
    for call in calls:
        refuse_cancelled(cancelled)
        begun = time.perf_counter()
        answers.append(answer_call(function, call)._replace(queued_seconds=begun - asked))
    return answers


def refuse_cancelled(cancelled: threading.Event | None) -> None:
    """Raise `Cancelled` where it is set."""
    if cancelled is not None and cancelled.is_set():
        raise Cancelled("the scores were given up")


def answer_call(function: Callable[[Any], Any], call: Any, *, errors: type[BaseException] = Exception) -> Answered:
    """One call: its answer, or the `Failure` that one of these errors is."""
    begun = time.perf_counter()
    try:
        answer = function(call)
    except errors as error:
        answer = failure_of(error)
    return Answered(answer, time.perf_counter() - begun)


async def _gather(
    function: Any, calls: Sequence[Any], timeout_seconds: float, cancelled: threading.Event | None
) -> list[Answered]:
    answers = asyncio.gather(*(answer_async(function, call, timeout_seconds) for call in calls))
    while cancelled is not None and not answers.done():
        if cancelled.is_set():
            answers.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answers  # what nobody asks for is complained about when it is collected
            refuse_cancelled(cancelled)
        await asyncio.wait([answers], timeout=LOOK_SECONDS)
    return list(await answers)


async def answer_async(function: Any, call: Any, timeout_seconds: float) -> Answered:
    """One awaited call: its answer, or the `Failure` it came to."""
    begun = time.perf_counter()
    try:
        answer = await asyncio.wait_for(function.call_async(call), timeout_seconds)
    except TimeoutError:
        answer = Failure(f"no answer within {timeout_seconds:g} s", timed_out=True)
    except Exception as error:  # noqa: BLE001 - any exception of a reward is its failure
        answer = failure_of(error)
    return Answered(answer, time.perf_counter() - begun)


def run_coroutine(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The result of a coroutine, also where this thread already runs a loop (a notebook): in a private thread then.

    An exception that ended the coroutine is raised here, whichever thread it ran in.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(make())).result()
