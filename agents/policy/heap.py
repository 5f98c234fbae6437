"""The heap of a process that takes and frees gigabytes in every iteration. Linux with glibc; elsewhere nothing is done.

A chunk of logits is 100 MB. On fresh pages every time, zeroed by the kernel, an update takes a fifth longer, so what is
freed is kept. But arrays of ever other sizes break a heap into pieces that fit none of them: of 4.5 GB in use the main
job had made 9.4 GB after 54 iterations, and went on. So what has come together is given back now and then.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From glibc's malloc.h."""
LARGEST = 2**31 - 1
GROWTH = 1.15
"""Times the memory that the first iteration behind the last time held: the next one has to get its pages anew, which
takes it a tenth longer, so not every one should."""
PRODUCTS = "256"
"""That oneDNN keeps ready, by their shapes, instead of 1,024: about a megabyte each in the main job, where an iteration
makes 30 to 60."""


def keep_freed_memory() -> None:
    """Let the heap keep what is freed, and oneDNN not too much. To be called before the first product."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRODUCTS)
    if (library := glibc()) is not None:
        library.mallopt(M_MMAP_THRESHOLD, LARGEST)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)


class Heap:
    """What an iteration leaves behind, watched from one to the next."""

    def __init__(self) -> None:
        self.first: int | None = None
        """Bytes that were held after the first iteration since memory was given back."""

    def settle(self) -> bool:
        """Between two iterations: give back what is free if `GROWTH` times as much is held as at first. Returns whether
        it was done: nowhere but on glibc."""
        library = glibc()
        if library is None:
            return False
        now = resident_bytes()
        if self.first is None:
            self.first = now
        if now <= GROWTH * self.first:
            return False
        library.malloc_trim(0)
        self.first = None
        return True


def resident_bytes() -> int:
    """Memory that this process has at the moment (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@cache
def glibc() -> Any:
    """The C library, where it is glibc; else None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
