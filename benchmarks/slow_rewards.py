"""Rewards that take their time, in a module that a worker imports without delay."""

from __future__ import annotations

import asyncio
import time


def sleeps(completion: str, *, seconds: float) -> float:
    """Waits, as for a compiler or a service, and pays the length."""
    time.sleep(seconds)
    return float(len(completion))


async def judges(completion: str, *, seconds: float) -> float:
    """Waits beside others, as for a judge behind a network, and pays the length."""
    await asyncio.sleep(seconds)
    return float(len(completion))


def computes(completion: str, *, seconds: float) -> float:
    """Plain Python that keeps a processor busy for about so long, and pays the length."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))
    return float(len(completion))


def counts(completion: str) -> float:
    """Pays the length at once."""
    return float(len(completion))
