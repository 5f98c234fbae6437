"""What a sandboxed process does to itself before it touches a program."""

from __future__ import annotations

import contextlib
import os
import resource


def limit_this_process(*, cpu_seconds: int, memory_mb: int) -> None:
    """Bound CPU time, memory, file size, open files and core dumps; both limits, so that they cannot be raised."""
    for limit, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError):  # a lower limit is already in force
            resource.setrlimit(limit, (value, value))


def private_stdio() -> tuple[int, int]:
    """Stdin and stdout as new descriptors; the old ones then lead to /dev/null, where prints and reads are lost."""
    channel = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    return channel
