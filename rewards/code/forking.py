"""Forks, pipes and signals of the fork server."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from rewards.code.system_calls import fork_into


def fork_to(main: Callable[[], int], namespaces: int) -> int:
    """The pid of a fork that runs `main` and never returns here."""
    pid = fork_into(namespaces)
    if pid == 0:
        status = 1
        try:
            status = main()
        finally:
            os._exit(status)
    return pid


@contextlib.contextmanager
def open_pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    """Pipes that are closed here again: a forgotten end would hide that the other side has gone."""
    pipes: list[tuple[int, int]] = []
    try:
        pipes.extend(os.pipe() for _ in range(count))
        yield pipes
    finally:
        for descriptor in (descriptor for pipe in pipes for descriptor in pipe):
            os.close(descriptor)


@contextlib.contextmanager
def closing(descriptor: int | None) -> Iterator[int | None]:
    """A descriptor that is closed here again, if there is one."""
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def kill(pid: int) -> None:
    """Kill a process and its group, which is not there before it has called setsid."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, signal.SIGKILL)


def reaped(pid: int, options: int) -> int | None:
    """The exit status, negative for a signal; None: still running, or no child of ours."""
    try:
        found, status = os.waitpid(pid, options)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if found else None


def children() -> list[int]:
    """Pids of this process's children, adopted ones too."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]
