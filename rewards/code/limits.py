"""Resource limits of a sandboxed process; soft and hard ones, so that they cannot be raised again."""

from __future__ import annotations

import contextlib
import os
import resource

FILE_MB = 16
"""The largest file that a program may write."""
OPEN_FILES = 64
THREADS = 256
"""Of the same user; no limit for root, and none where the user's other processes would count."""


def limit_this_process(*, cpu_seconds: int, memory_bytes: int, threads: bool = False) -> None:
    """Bound CPU time, memory, file size, open files and core dumps, and where `threads` says so their number."""
    limits = [
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, FILE_MB << 20),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ]
    if threads:
        limits.append((resource.RLIMIT_NPROC, THREADS))
    for limit, value in limits:
        with contextlib.suppress(ValueError):  # a lower limit is already in force
            resource.setrlimit(limit, (value, value))


def memory_in_use() -> int:
    """Bytes of address space that this process has mapped."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
