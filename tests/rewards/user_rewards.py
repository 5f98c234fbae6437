"""Rewards as a user would write them, in a module that worker processes can import."""

import asyncio
import os
import re
import subprocess
import sys
import time

from rewards import Sample, Score


def brevity(completion: str, *, limit: int = 10, **_) -> float:
    return max(0.0, 1.0 - len(completion) / limit)


def length(completion):
    print("this must not reach the trainer's stdout")
    return len(completion)


def columns_seen(completion, **columns):
    return Score(len(columns), info={"reason": ",".join(sorted(columns))})


def obedient(completion):
    if completion == "hang":
        while True:
            pass
    if completion == "die":
        os._exit(3)
    if completion == "exit":
        sys.exit(0)
    if completion == "raise":
        raise RuntimeError("the judge is away")
    return {"none": None, "nan": float("nan"), "inf": float("inf"), "text": "good", "true": True}.get(completion, 1)


def nap(completion):
    time.sleep(float(completion))
    return 0.0


async def patient(completion):
    if completion == "hang":
        await asyncio.sleep(600)
    if completion == "block":
        time.sleep(600)
    await asyncio.sleep(0.01)
    return 2


class AsyncJudge:
    async def score_batch(self, samples):
        await asyncio.sleep(0.01)
        return [len(sample.completion) for sample in samples]


class Batch:
    def __init__(self, results):
        self.results = results

    def score_batch(self, samples):
        return self.results


class Numpy:
    def __call__(self, completion):
        import numpy

        return numpy.float32(0.5)


IMPORTED_AT = time.monotonic()


def act(what):
    """Whatever a test of the workers wants to see."""
    if what == "family":
        with open(f"/proc/{os.getppid()}/stat") as stat:
            grandparent = int(stat.read().rpartition(")")[2].split()[1])
        return {
            "own": os.getpid(),
            "parent": os.getppid(),
            "grandparent": grandparent,
            "first module": next(name for name in sys.modules if name.startswith("rewards.w")),
            "pytest is imported": "pytest" in sys.modules,
        }
    if what == "imported_at":
        return IMPORTED_AT
    if what == "start a child":
        return subprocess.Popen(["sleep", "600"]).pid
    if what == "hold the interpreter":
        re.match(r"(a+)+$", "a" * 60 + "!")
    if what == "take a gigabyte":
        return len(bytearray(1 << 30))
    if what.startswith("environment "):
        return os.environ.get(what.split()[1])
    return obedient(what)


def unpicklable(what):
    return lambda: what


class Counting:
    """Counts its calls; says so, and what was shown."""

    execution = "inline"

    def __init__(self):
        self.seen = []
        self.version = 1

    def __call__(self, completion, answer=None):
        self.seen.append(completion)
        if completion == "raise":
            raise RuntimeError("the judge is away")
        return len(completion)


class CountingBatches(Counting):
    def score_batch(self, samples):
        self.seen.append([sample.completion for sample in samples])
        return [len(sample.completion) for sample in samples]


def put_lengths(scorer, results):
    """What a process of its own, started by a test, does with a scorer of `length`."""
    with scorer:
        results.put([verdict.value for verdict in scorer.score([Sample("", "x" * n) for n in (1, 2, 3)])])
