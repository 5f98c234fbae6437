"""Rewards that do each thing wrong that a check knows of."""

import asyncio
import itertools
import os
import re
import signal
import sys

CALLS = itertools.count()


def sound(completion):
    return float("4" in completion and len(completion) < 5)


def raises(completion):
    return deeper(completion, 20)


def deeper(completion, levels):
    if levels:
        return deeper(completion, levels - 1)
    raise RuntimeError("the judge is away")


def holds_the_interpreter(completion):
    return float(re.match(r"(a+)+$", completion) is not None)


def dies(completion):
    if not completion:
        os._exit(3)
    return 0.0


def leaves(completion):
    if not completion:
        sys.exit(0)
    return 0.0


def takes_all_memory(completion):
    return bytearray(1 << 45)


def hangs(completion):
    while True:
        pass


def is_killed(completion):
    os.kill(os.getpid(), signal.SIGKILL)


def none(completion):
    return None


def text(completion):
    return "good"


def nan(completion):
    return float("nan") if "\x00" in completion else 0.0


def brief(completion):
    return 1.0 / (1 + len(completion))


def echo(completion, prompt):
    return float(prompt in completion)


def forgets(completion):
    return next(CALLS)


async def late(completion):
    await asyncio.sleep(60)


def fragile(completion):
    """Breaks on a lone half of a character, as hashing and writing do."""
    completion.encode()
    return 0.0


class OneScore:
    def score_batch(self, samples):
        return [0.0]


class Batch:
    def __init__(self, value=0.0):
        self.value = value

    def score_batch(self, samples):
        return [self.value for _ in samples]
