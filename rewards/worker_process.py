"""The far side of `rewards.workers`: a server that imports the rewards once and forks workers, and the workers.

The server is a fresh interpreter, started by exec, so that neither it nor its forks hold anything of the trainer's: no
weights, no threads, no CUDA, no secrets. A worker reads calls from a pipe and answers each as it is done. Messages are
pickles with eight bytes of length before them. What a reward prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

from rewards.errors import failure_of
from rewards.inline import Answered, answer_async, answer_call

HEADER = struct.Struct("<Q")
REQUEST = struct.Struct("<cq")
"""To the server: `FORK`, two descriptors beside it; or `STATUS` of a worker's process id."""
REPLY = struct.Struct("<q")
"""A process id, or a wait status; `RUNNING` where it has none yet."""
FORK, STATUS, RUNNING = b"F", b"S", -1
READY, HAS_THREADS = "ready", "has threads"
OUT_OF_MEMORY = 77
"""The exit status of a worker that had not even the memory to say so."""
LOOK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
inside_worker = False
"""True in a worker process: what would start a worker of its own does its work here instead."""


def framed(message: Any) -> bytes:
    """A message as bytes for the pipe."""
    payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(payload)) + payload


def _read(stream: BinaryIO) -> Any:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        os._exit(0)  # the trainer has closed the pipe
    return pickle.loads(stream.read(HEADER.unpack(header)[0]))


def run_server(parent: int) -> NoReturn:
    """Import what the first message holds, then fork a worker whenever asked, until the trainer leaves.

    Where importing a reward started threads, which a fork would cut off in the midst of whatever they hold, this says
    so and serves no one; the trainer then starts a server without functions, whose workers import them themselves.
    """
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    with control.makefile("rb") as stream:
        loaded = _load(_read(stream))
    control.sendall(framed(loaded if not isinstance(loaded, Mapping) else HAS_THREADS if _num_threads() > 1 else READY))
    if not isinstance(loaded, Mapping):
        os._exit(1)
    gc.collect()
    gc.freeze()  # a collection in a worker would touch, and so copy, every page of the server's objects
    workers: set[int] = set()
    while os.getppid() == parent:
        if select.select([control], [], [], LOOK_SECONDS)[0] and not _serve_request(control, loaded, workers):
            break
    for worker in workers:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(worker, signal.SIGKILL)
    os._exit(0)


def _load(functions: Mapping[str, bytes]) -> Any:
    try:
        return {name: pickle.loads(data) for name, data in functions.items()}
    except Exception as error:  # noqa: BLE001 - a module of the user may raise anything; the parent tells it
        return failure_of(error)


def _num_threads() -> int:
    """Of this process, those that Python does not know of included, where the system tells."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _serve_request(control: socket.socket, functions: Mapping[str, Any], workers: set[int]) -> bool:
    """Answer one request; False when the trainer has left."""
    request, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 2, socket.MSG_WAITALL)
    if len(request) < REQUEST.size:
        return False
    kind, worker = REQUEST.unpack(request)
    if kind == STATUS:
        # Only here is a dead worker reaped: until the trainer knows of it, its number names no other process.
        found, status = os.waitpid(worker, os.WNOHANG)
        workers -= {found}
        control.sendall(REPLY.pack(status if found else RUNNING))
        return True
    server = os.getpid()
    worker = os.fork()
    if worker == 0:
        control.close()
        calls, answers = descriptors
        _become_worker(calls, answers, functions, server)
    for descriptor in descriptors:
        os.close(descriptor)
    workers.add(worker)
    control.sendall(REPLY.pack(worker))
    return True


def _become_worker(calls: int, answers: int, functions: Mapping[str, Any], server: int) -> NoReturn:
    try:
        os.setsid()
        _die_with(server)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed()  # Python's own generator is seeded anew by itself, this one is not
        with os.fdopen(calls, "rb") as requests, os.fdopen(answers, "wb") as replies:
            _serve(requests, replies, functions)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    finally:
        os._exit(1)


def _die_with(server: int) -> None:
    """A trainer that is killed takes its server with it, and the server its workers, even those that hang."""
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _serve(requests: BinaryIO, replies: BinaryIO, functions: Mapping[str, Any]) -> None:
    """Answer calls until the pipe closes."""
    global inside_worker
    inside_worker = True

    def send(message: Any) -> None:
        data = framed(message)  # before the write: what cannot be pickled must not leave half a message in the pipe
        replies.write(data)
        replies.flush()

    own_functions, memory_mb = _read(requests)
    if memory_mb is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory_mb << 20 if hard == resource.RLIM_INFINITY else min(memory_mb << 20, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    loaded = functions if own_functions is None else _load(own_functions)
    send(READY if isinstance(loaded, Mapping) else loaded)
    if not isinstance(loaded, Mapping):
        return
    while True:
        name, calls, timeout_seconds = _read(requests)
        answer = _answer_together if getattr(loaded[name], "is_async", False) else _answer_in_turn
        answer(loaded[name], calls, timeout_seconds, send)


def _answer_in_turn(function: Callable[[Any], Any], calls: list[bytes], timeout_seconds: float, send: Callable) -> None:
    for index, call in enumerate(calls):
        # Not only exceptions: sys.exit() in a reward is its failure, not the worker's end.
        _send_or_failure(index, answer_call(_unpickling(function), call, errors=BaseException), send)


def _unpickling(function: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    return lambda call: function(pickle.loads(call))


def _answer_together(function: Any, calls: list[bytes], timeout_seconds: float, send: Callable) -> None:
    async def one(index: int, call: bytes) -> None:
        _send_or_failure(index, await answer_async(function, pickle.loads(call), timeout_seconds), send)

    async def everything() -> None:
        await asyncio.gather(*(one(index, call) for index, call in enumerate(calls)))

    asyncio.run(everything())


def _send_or_failure(index: int, answered: Answered, send: Callable) -> None:
    try:
        send((index, answered))
    except Exception as error:  # noqa: BLE001 - what pickling an answer raises is its reward's failure
        send((index, answered._replace(answer=failure_of(error))))
