"""Rewards as a user would write them, in a module that worker processes can import."""

import asyncio
import os
import sys
import time

from rewards import Score


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
