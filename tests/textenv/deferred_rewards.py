"""Rewards of which a worker process must be able to import the module."""

import asyncio
import time


def sleeps(completion):
    time.sleep(600)


async def sleeps_async(completion):
    await asyncio.sleep(600)
