"""Killable worker processes for what may hang, forked from a clean, warm server (`rewards.fork_server`).

The parent alone keeps the time: a call that overruns is killed with its process, and the calls behind it go to a new
one. A batch travels in one message; answers come back one by one, so one bad call loses only itself.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rewards.fork_server import ForkServer
from rewards.inline import Answered
from rewards.worker import Worker


def sendable(name: str, function: Callable[..., Any]) -> bytes:
    """`function` as bytes for a worker; raises `ValueError` where another process could not import it."""
    try:
        data = pickle.dumps(function)
        in_script = any(argument == "__main__" for _, argument, _ in pickletools.genops(data))
        obstacle = "it is defined in __main__" if in_script else ""
    except Exception as error:  # noqa: BLE001 - pickling runs the user's __reduce__ and may raise anything
        obstacle = f"{type(error).__name__}: {error}"
    if obstacle:
        raise ValueError(
            f"reward.{name} cannot be sent to a worker process ({obstacle}): "
            "define it in a module, or choose 'execution: inline' to run it in the trainer, without a time limit"
        )
    return data


def default_workers() -> int:
    """A quarter of the cores: they grade while the others decode."""
    return max(1, len(os.sched_getaffinity(0)) // 4 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 4) // 4)


class Pool:
    """Workers that know some functions by name. Started when a call needs them, replaced when killed."""

    def __init__(
        self,
        functions: Mapping[str, Callable[[Any], Any]],
        *,
        workers: int = 1,
        memory_mb: int | None = None,
        keep_environment: Collection[str] = (),
    ) -> None:
        """`memory_mb` bounds each worker's address space; `keep_environment` names secrets that they may see."""
        self._functions = {name: sendable(name, function) for name, function in functions.items()}
        self._together = {name for name, function in functions.items() if getattr(function, "is_async", False)}
        self._workers, self._memory_mb, self._keep_environment = workers, memory_mb, tuple(keep_environment)
        self._slots: list[Worker] = []
        self._begin()

    def _begin(self) -> None:
        """Have a server and slots of this process's own; what a fork has inherited is its parent's, locks included."""
        for slot in self._slots:
            slot.stop()
        self._owner, self._lock = os.getpid(), threading.Lock()
        starting = threading.Lock()  # of all slots: the server answers one request after the other
        self._server = ForkServer(self._functions, keep_environment=self._keep_environment)
        self._slots = [Worker(self._server, self._functions, self._memory_mb, starting) for _ in range(self._workers)]

    def run(
        self, name: str, calls: Sequence[Any], *, timeout_seconds: float, cancelled: threading.Event | None = None
    ) -> list[Any]:
        """The answers in order, a `Failure` where a call raised, overran its limit or lost its process.

        Raises `RewardError` when a worker cannot be started or cannot import the function, and `Cancelled` when
        `cancelled` is set meanwhile; the processes are killed then.
        """
        timed = self.run_timed(name, calls, timeout_seconds=timeout_seconds, cancelled=cancelled)
        return [answered.answer for answered in timed]

    def run_timed(
        self, name: str, calls: Sequence[Any], *, timeout_seconds: float, cancelled: threading.Event | None = None
    ) -> list[Answered]:
        """As `run`, with each call's own time and how long it waited for its turn."""
        if self._owner != os.getpid():
            self._begin()
        asked = time.perf_counter()
        answers: list[Any] = [None] * len(calls)
        chunk = max(1, -(-len(calls) // (4 * len(self._slots)))) if len(self._slots) > 1 else max(1, len(calls))
        chunks = deque(range(start, min(start + chunk, len(calls))) for start in range(0, len(calls), chunk))

        def work(slot: Worker) -> None:
            while True:
                try:
                    indices = chunks.popleft()
                except IndexError:
                    return
                sent = [pickle.dumps(calls[index]) for index in indices]
                answers[indices.start : indices.stop] = slot.run(
                    name, sent, timeout_seconds, name in self._together, asked
                )

        with self._lock:
            for slot in self._slots:
                slot.cancelled = cancelled
            if len(self._slots) == 1 or len(chunks) == 1:
                work(self._slots[0])
            else:
                with ThreadPoolExecutor(len(self._slots)) as threads:
                    list(threads.map(work, self._slots))
        return answers

    def close(self) -> None:
        """End all workers; a later call starts them again."""
        with self._lock:  # behind a run that another thread is in: its workers are not to be taken from it
            for slot in self._slots:
                slot.stop()
            self._server.stop()
