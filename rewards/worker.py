"""One slot for a worker process: starts it, speaks with it, keeps its time, kills it."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from rewards.errors import Failure, RewardError
from rewards.fork_server import STARTUP_SECONDS, Forked, ForkServer
from rewards.inline import LOOK_SECONDS, Answered, refuse_cancelled
from rewards.worker_process import HEADER, OUT_OF_MEMORY, framed

GRACE_SECONDS = 0.5
"""What an async call gets beyond its own cancellation before its process is killed."""
EXIT_SECONDS = 1.0
"""How long a worker that has closed its pipe may take to end by itself, so that its exit status can be told."""


class Worker:
    """One slot for a process."""

    def __init__(
        self, server: ForkServer, functions: Mapping[str, bytes], memory_mb: int | None, starting: threading.Lock
    ) -> None:
        self.cancelled: threading.Event | None = None
        """Set from outside while it runs: kill the process and leave."""
        self._server = server
        self._functions = functions
        self._memory_mb = memory_mb
        self._starting = starting
        self._process: Forked | None = None
        self._owner = os.getpid()
        self._received = bytearray()

    def run(
        self, name: str, calls: list[bytes], timeout_seconds: float, together: bool, asked: float
    ) -> list[Answered]:
        """Ask until every call has an answer; `together` when the calls run concurrently in the worker."""
        answers: dict[int, Answered] = {}
        waiting = list(range(len(calls)))
        while waiting:
            begun = time.perf_counter()
            failure = self._ask(name, calls, waiting, timeout_seconds, together, answers, asked)
            unanswered = [index for index in waiting if index not in answers]
            if failure and together and len(waiting) > 1:
                for index in unanswered:  # which of them blocked the others is only seen when each runs alone
                    (alone,) = self.run(name, [calls[index]], timeout_seconds, True, asked)
                    answers[index] = alone
                break
            if failure:
                lost = time.perf_counter() - begun
                answers[unanswered[0]] = Answered(failure, min(lost, timeout_seconds), begun - asked)
            waiting = unanswered[1:]
        return [answers[index] for index in range(len(calls))]

    def _ask(
        self,
        name: str,
        calls: list[bytes],
        waiting: list[int],
        timeout_seconds: float,
        together: bool,
        answers: dict[int, Answered],
        asked: float,
    ) -> Failure | None:
        """Send what waits and fill `answers` until all are in or the process had to be given up."""
        limit = timeout_seconds + (GRACE_SECONDS if together else 0.0)
        try:
            self._start()
            self._write(framed((name, [calls[index] for index in waiting], timeout_seconds)), limit + 10.0)
            for _ in waiting:
                position, answered = self._read(limit)
                queued = time.perf_counter() - asked - answered.seconds
                answers[waiting[position]] = answered._replace(queued_seconds=max(0.0, queued))
        except TimeoutError:
            self.stop()
            return Failure(f"no answer within {timeout_seconds:g} s", timed_out=True)
        except OSError:
            status = self._exit_status()
            out_of_memory = status == f"exit status {OUT_OF_MEMORY}"
            told = "out of memory" if out_of_memory else status
            return Failure(f"its worker process died ({told})", out_of_memory=out_of_memory)
        except BaseException:
            self.stop()  # answers that nobody read would be taken for those of the next call
            raise
        return None

    def _start(self) -> None:
        if self._process is not None and self._owner == os.getpid() and not _hung_up(self._process.answers):
            return
        self.stop()
        with self._starting:
            self._process = self._server.fork()
        self._owner = os.getpid()
        self._received.clear()
        try:
            functions = None if self._server.imports else self._functions
            self._write(framed((functions, self._memory_mb)), STARTUP_SECONDS)
            answer = self._read(STARTUP_SECONDS)
        except OSError as error:
            raise RewardError(f"a reward worker could not be started ({self._exit_status()}): {error}") from error
        if isinstance(answer, Failure):
            self.stop()
            raise RewardError(
                f"a reward worker could not import {list(self._functions)}: {answer.reason}\n{answer.trace}"
            )

    def _write(self, data: bytes, limit_seconds: float) -> None:
        assert self._process is not None
        descriptor, deadline = self._process.calls, time.monotonic() + limit_seconds
        os.set_blocking(descriptor, False)
        view = memoryview(data)
        while view:
            if not _writable(descriptor, deadline):
                raise TimeoutError
            view = view[os.write(descriptor, view) :]

    def _read(self, limit_seconds: float) -> Any:
        assert self._process is not None
        descriptor, deadline = self._process.answers, time.monotonic() + limit_seconds
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            if len(self._received) >= HEADER.size:
                end = HEADER.size + HEADER.unpack_from(self._received)[0]
                if len(self._received) >= end:
                    message = pickle.loads(memoryview(self._received)[HEADER.size : end].tobytes())
                    del self._received[:end]
                    return message
            if not self._wait(poll, deadline):
                continue
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise BrokenPipeError("the worker closed its pipe")
            self._received += data

    def _wait(self, poll: select.poll, deadline: float) -> bool:
        """Whether there is something to read; False means: not yet. Raises `TimeoutError` and `Cancelled`."""
        left = max(0.0, deadline - time.monotonic())
        if self.cancelled is None:
            ready = bool(poll.poll(left * 1000))
        else:
            refuse_cancelled(self.cancelled)
            ready = bool(poll.poll(min(left, LOOK_SECONDS) * 1000))
        if not ready and time.monotonic() >= deadline:
            raise TimeoutError
        return ready

    def _exit_status(self) -> str:
        status = self.stop(patience_seconds=EXIT_SECONDS)
        if status is None:
            return "its server was killed"
        code = os.waitstatus_to_exitcode(status)
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def stop(self, *, patience_seconds: float = 0.0) -> int | None:
        """Kill the process, if there is one, and return its wait status, where that can be had."""
        process, owner = self._process, self._owner
        self._process = None
        self._received.clear()
        if process is None:
            return None
        for descriptor in (process.calls, process.answers):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if owner != os.getpid():
            return None
        with self._starting:
            return self._server.end_worker(process.process_id, patience_seconds=patience_seconds)


def _hung_up(descriptor: int) -> bool:
    """Whether who writes to this pipe has gone: an idle worker that somebody killed."""
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP is told unasked
    return bool(poll.poll(0))


def _writable(descriptor: int, deadline: float) -> bool:
    poll = select.poll()  # select() refuses descriptors from 1024 on
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
