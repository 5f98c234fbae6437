"""The near side of the server that forks workers (`rewards.worker_process`): start it, ask for workers, end it.

One server a pool. It is started by exec at the first call that needs a worker; from then on a worker costs a fork, some
milliseconds, instead of the imports of its rewards. Whoever forks the trainer (a `DataLoader`, Ray) gets servers of its
own: a handle works only in the process that made it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from rewards.environment import worker_environment
from rewards.errors import Failure, RewardError
from rewards.worker_process import FORK, HAS_THREADS, HEADER, REPLY, REQUEST, RUNNING, STATUS, framed

STARTUP_SECONDS = 120.0
"""Imports of the user's rewards included."""
REPLY_SECONDS = 10.0
LEAVE_SECONDS = 2.0
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import rewards.worker_process as w; w.run_server({})"


class Forked(NamedTuple):
    """A worker: its process id and our ends of its two pipes."""

    process_id: int
    calls: int
    answers: int


class ForkServer:
    """A process that knows some functions and forks workers that know them, too."""

    def __init__(self, functions: Mapping[str, bytes], *, keep_environment: Collection[str] = ()) -> None:
        self._functions = dict(functions)
        self._keep_environment = tuple(keep_environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._owner = os.getpid()
        self._end: weakref.finalize | None = None
        self.imports = True
        """False: importing the functions starts threads, so each worker imports them by itself."""

    @property
    def lives(self) -> bool:
        """Whether there is a server, and this process is the one that started it."""
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def fork(self) -> Forked:
        """A new worker, by a new server where the last one is gone. Raises `RewardError` when none can be had."""
        try:
            return self._fork()
        except OSError:  # it died between two requests: memory, or somebody's kill
            self.stop()
        try:
            return self._fork()
        except OSError as error:
            raise RewardError(f"a reward worker could not be started: {type(error).__name__}: {error}") from error

    def _fork(self) -> Forked:
        if not self.lives:
            self._start()
        assert self._control is not None
        its_calls, calls = os.pipe()
        answers, its_answers = os.pipe()
        try:
            socket.send_fds(self._control, [REQUEST.pack(FORK, 0)], [its_calls, its_answers])
            process_id = self._reply()
        except BaseException:
            os.close(calls)
            os.close(answers)
            raise
        finally:
            os.close(its_calls)
            os.close(its_answers)
        return Forked(process_id, calls, answers)

    def end_worker(self, process_id: int, *, patience_seconds: float = 0.0) -> int | None:
        """Kill a worker with all it started, and return its wait status.

        With `patience_seconds` it may first end by itself; None where its server is gone, and its status with it.
        """
        if self._owner != os.getpid():
            return None
        try:
            status = self._await_status(process_id, patience_seconds)
            if status is None:
                _kill_group(process_id)
                status = self._await_status(process_id, LEAVE_SECONDS)
        except OSError:
            _kill_group(process_id)  # without a server nobody has reaped it, unless the system's first process did
            self.stop()
            return None
        return status

    def _await_status(self, process_id: int, patience_seconds: float) -> int | None:
        deadline = time.monotonic() + patience_seconds
        while True:
            if not self.lives:
                raise BrokenPipeError("the server of the workers is gone")
            assert self._control is not None
            self._control.sendall(REQUEST.pack(STATUS, process_id))
            status = self._reply()
            if status != RUNNING:
                return status
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.002)

    def stop(self) -> None:
        """End the server and all its workers, if there are any."""
        if self._end is not None:
            self._end()
        self._process, self._control, self._end = None, None, None

    def _start(self) -> None:
        self.stop()
        answer = self._boot(self._functions if self.imports else {})
        if answer == HAS_THREADS and self.imports:
            self.imports = False
            self.stop()
            answer = self._boot({})
        if isinstance(answer, Failure):
            self.stop()
            raise RewardError(
                f"a reward worker could not import {list(self._functions)}: {answer.reason}\n{answer.trace}"
            )

    def _boot(self, functions: Mapping[str, bytes]) -> Any:
        ours, its = socket.socketpair()
        path = json.dumps([entry or os.getcwd() for entry in sys.path])
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(os.getpid()), path],
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                env=worker_environment(self._keep_environment),
                start_new_session=True,
            )
        self._control, self._owner = ours, os.getpid()
        self._end = weakref.finalize(self, _end, self._process, ours, self._owner)
        ours.settimeout(STARTUP_SECONDS)
        try:
            ours.sendall(framed(functions))
            answer = pickle.loads(_received(ours, HEADER.unpack(_received(ours, HEADER.size))[0]))
        except OSError as error:
            exit_status = self._process.poll()
            self.stop()
            raise RewardError(f"a reward worker could not be started (exit status {exit_status}): {error}") from error
        ours.settimeout(REPLY_SECONDS)
        return answer

    def _reply(self) -> int:
        assert self._control is not None
        return REPLY.unpack(_received(self._control, REPLY.size))[0]


def _received(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise BrokenPipeError("the server of the workers has left")
        data += part
    return data


def _kill_group(process_id: int) -> None:
    for kill in (os.killpg, os.kill):  # it may be too young to have a group of its own
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(process_id, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    """A closed line tells the server to kill its workers and leave; only its owner may insist."""
    if owner == os.getpid():
        with contextlib.suppress(OSError):
            control.shutdown(socket.SHUT_RDWR)  # forks of the trainer may hold copies, which a mere close would spare
    control.close()
    if owner != os.getpid():
        process.returncode = 0  # not this process's child: nothing to wait for
        return
    try:
        process.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        process.wait()
