"""Rewards of which a worker process must be able to import the module."""

import asyncio
import random
import time
from pathlib import Path

from rewards import Score


def worth_of(completion, worth):
    """Tells completions and problems apart, with a metric and a reason."""
    return Score(sum(map(ord, completion)) / 1000 + worth, metrics={"size": len(completion)}, info={"reason": "so"})


def fails_on_e(completion, worth):
    if "e" in completion:
        raise RuntimeError("no e, please")
    return len(completion) / 10 + worth


async def judges(completion, worth):
    """Answers come in any order."""
    await asyncio.sleep(random.random() / 100)
    return len(completion) / 10 + worth


def per_letter(completion):
    """Spans, besides the value."""
    return Score(0.1, spans=tuple((k, k + 1, ord(letter) / 7) for k, letter in enumerate(completion)))


class Ranks:
    """A batched reward whose scores depend on who is scored together."""

    def score_batch(self, samples):
        return [len(samples) + rank / 10 for rank, _ in enumerate(samples)]


class Waits:
    """Says that it has begun, and answers when it is let: both are files, so that this works in a worker too."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, completion):
        (Path(self.folder) / "begun").touch()
        appears(Path(self.folder) / "let")
        return 1.0


class WaitsInline(Waits):
    execution = "inline"


def appears(path, seconds=60.0):
    """Wait for a file."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.002)
