"""The child's side of `rewards.workers`: read functions and calls from a pipe, answer each call as it is done.

Messages are pickles with eight bytes of length before them. What a reward prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from rewards.errors import failure_of
from rewards.inline import attempt_async

HEADER = struct.Struct("<Q")
inside_worker = False
"""True in a worker process: what would start a worker of its own does its work here instead."""


def framed(message: Any) -> bytes:
    """A message as bytes for the pipe."""
    payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(payload)) + payload


def _read(stream: BinaryIO) -> Any:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        raise SystemExit(0)
    return pickle.loads(stream.read(HEADER.unpack(header)[0]))


def _leave_with_the_parent(parent: int) -> None:
    """A killed trainer closes the pipe, but a reward that never returns would not notice."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def serve(parent: int) -> None:
    """Answer calls until the pipe closes."""
    global inside_worker
    inside_worker = True
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    threading.Thread(target=_leave_with_the_parent, args=(parent,), daemon=True).start()

    def send(message: Any) -> None:
        data = framed(message)  # before the write: what cannot be pickled must not leave half a message in the pipe
        replies.write(data)
        replies.flush()

    try:
        functions = {name: pickle.loads(data) for name, data in _read(requests).items()}
    except Exception as error:  # noqa: BLE001 - a module of the user may raise anything; the parent tells it
        send(failure_of(error))
        return
    send("ready")
    while True:
        name, calls, timeout_seconds = _read(requests)
        answer = _answer_async if getattr(functions[name], "is_async", False) else _answer
        answer(functions[name], calls, timeout_seconds, send)


def _answer(function: Callable[[Any], Any], calls: list[bytes], timeout_seconds: float, send: Callable) -> None:
    for index, call in enumerate(calls):
        try:
            send((index, function(pickle.loads(call))))
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a reward is its failure, not the worker's end
            send((index, failure_of(error)))


def _answer_async(function: Any, calls: list[bytes], timeout_seconds: float, send: Callable) -> None:
    async def one(index: int, call: bytes) -> None:
        send((index, await attempt_async(function, pickle.loads(call), timeout_seconds)))

    async def everything() -> None:
        await asyncio.gather(*(one(index, call) for index, call in enumerate(calls)))

    asyncio.run(everything())
