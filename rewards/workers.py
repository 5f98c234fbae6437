"""Killable worker processes for what may hang: fresh interpreters started by exec, never forks of the trainer.

The parent alone keeps the time: a call that overruns is killed with its process, and the calls behind it go to a new
one. A batch travels in one message; answers come back one by one, so one bad call loses only itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pickletools
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rewards.errors import Failure, RewardError
from rewards.inline import LOOK_SECONDS, refuse_cancelled
from rewards.worker_process import HEADER, framed

STARTUP_SECONDS = 120.0
GRACE_SECONDS = 0.5
"""What an async call gets beyond its own cancellation before its process is killed."""
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import rewards.worker_process as w; w.serve({})"


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


class Pool:
    """Workers that know some functions by name. Started at the first call, restarted when killed."""

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]], *, workers: int = 1) -> None:
        sent = {name: sendable(name, function) for name, function in functions.items()}
        self._together = {name for name, function in functions.items() if getattr(function, "is_async", False)}
        self._slots = [_Worker(sent) for _ in range(workers)]
        self._lock = threading.Lock()

    def run(
        self, name: str, calls: Sequence[Any], *, timeout_seconds: float, cancelled: threading.Event | None = None
    ) -> list[Any]:
        """The answers in order, a `Failure` where a call raised, overran its limit or lost its process.

        Raises `RewardError` when a worker cannot be started or cannot import the function, and `Cancelled` when
        `cancelled` is set meanwhile; the processes are killed then.
        """
        answers: list[Any] = [None] * len(calls)
        chunk = max(1, -(-len(calls) // (4 * len(self._slots)))) if len(self._slots) > 1 else max(1, len(calls))
        chunks = deque(range(start, min(start + chunk, len(calls))) for start in range(0, len(calls), chunk))

        def work(slot: _Worker) -> None:
            while True:
                try:
                    indices = chunks.popleft()
                except IndexError:
                    return
                sent = [pickle.dumps(calls[index]) for index in indices]
                answers[indices.start : indices.stop] = slot.run(name, sent, timeout_seconds, name in self._together)

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
        for slot in self._slots:
            slot.stop()


class _Worker:
    """One process slot."""

    def __init__(self, functions: Mapping[str, bytes]) -> None:
        self.cancelled: threading.Event | None = None
        """Set from outside while it runs: kill the process and leave."""
        self._functions = dict(functions)
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._received = bytearray()
        self._stop: Callable[[], Any] = lambda: None

    def run(self, name: str, calls: list[bytes], timeout_seconds: float, together: bool) -> list[Any]:
        """Ask until every call has an answer; `together` when the calls run concurrently in the worker."""
        answers: dict[int, Any] = {}
        waiting = list(range(len(calls)))
        while waiting:
            failure = self._ask(name, calls, waiting, timeout_seconds, together, answers)
            unanswered = [index for index in waiting if index not in answers]
            if failure and together and len(waiting) > 1:
                for index in unanswered:  # which of them blocked the others is only seen when each runs alone
                    answers.update(zip([index], self.run(name, [calls[index]], timeout_seconds, True), strict=True))
                break
            if failure:
                answers[unanswered[0]] = failure
            waiting = unanswered[1:]
        return [answers[index] for index in range(len(calls))]

    def _ask(
        self,
        name: str,
        calls: list[bytes],
        waiting: list[int],
        timeout_seconds: float,
        together: bool,
        answers: dict[int, Any],
    ) -> Failure | None:
        """Send what waits and fill `answers` until all are in or the process had to be given up."""
        limit = timeout_seconds + (GRACE_SECONDS if together else 0.0)
        try:
            self._start()
            self._write(framed((name, [calls[index] for index in waiting], timeout_seconds)), limit + 10.0)
            for _ in waiting:
                position, answer = self._read(limit)
                answers[waiting[position]] = answer
        except TimeoutError:
            self.stop()
            return Failure(f"no answer within {timeout_seconds:g} s", timed_out=True)
        except OSError:
            return Failure(f"its worker process died ({self._exit_status()})")
        except BaseException:
            self.stop()  # answers that nobody read would be taken for those of the next call
            raise
        return None

    def _start(self) -> None:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return
        self.stop()
        path = json.dumps([entry or os.getcwd() for entry in sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(os.getpid()), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"OMP_NUM_THREADS": "1", **os.environ},
            start_new_session=True,
        )
        self._owner = os.getpid()
        self._received.clear()
        self._stop = weakref.finalize(self, _kill, self._process, self._owner)
        self._await_ready()

    def _await_ready(self) -> None:
        try:
            self._write(framed(self._functions), STARTUP_SECONDS)
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
        assert self._process.stdin is not None
        descriptor, deadline = self._process.stdin.fileno(), time.monotonic() + limit_seconds
        os.set_blocking(descriptor, False)
        view = memoryview(data)
        while view:
            if not _writable(descriptor, deadline):
                raise TimeoutError
            view = view[os.write(descriptor, view) :]

    def _read(self, limit_seconds: float) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + limit_seconds
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
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        status = self._process.poll()
        self.stop()
        return signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"

    def stop(self) -> None:
        """Kill the process, if there is one."""
        self._stop()
        self._process = None
        self._received.clear()


def _writable(descriptor: int, deadline: float) -> bool:
    poll = select.poll()  # select() refuses descriptors from 1024 on
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _kill(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kill a worker and what it started; only its owner may, a fork of the owner has just a copy of the handle."""
    if owner == os.getpid():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
