"""What every worker needs, in whichever environment it runs: a clock, memory, a reward, one line at the end.

Imports nothing of ours: this file lies beside the scripts of the peers.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


def clock(device: str) -> float:
    """Seconds, read when the device has done everything it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory_gb(device: str) -> float:
    """The most memory used so far: on the GPU there, else resident in this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def text_value(text: str) -> float:
    """A number from 0 to 1 that differs from text to text: a reward under which every group teaches something."""
    return zlib.crc32(text.encode("utf-8", "replace")) % 1000 / 999


class Stopwatch:
    """Seconds by part since it was last read, for calls that are watched."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the seconds of every call of `owner.name`; the calls themselves stay as they are."""
        call: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(call)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            started = clock(self.device)
            try:
                return call(*arguments, **keywords)
            finally:
                self.seconds[part] += clock(self.device) - started

        setattr(owner, name, timed)

    def read(self) -> dict[str, float]:
        """The seconds of each part, which start again from zero."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


def settings() -> dict[str, Any]:
    """The worker's one argument: the settings, or `{"settings": path}` where they are too long for a command line."""
    given = json.loads(sys.argv[1])
    if given.keys() == {"settings"}:
        with open(given["settings"]) as file:
            return json.load(file)
    return given


def finish(**result: Any) -> None:
    """The worker's last line."""
    print("\n" + json.dumps({**result, "torch": torch.__version__}), flush=True)
