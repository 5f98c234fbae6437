"""The trusted side: runs the data set's tests against proxies of the program's functions and reports each outcome.

Only this process and the server hold the line to the trainer; the program knows neither.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from rewards.code.candidate_process import READY, first_line, run_each
from rewards.code.plain_data import MAX_BYTES, from_line, to_line

JOB, TO_PROGRAM, FROM_PROGRAM = 4, 5, 6
"""Where the descriptors lie: the line to the trainer, and the two pipes."""
STARTED = {"started": True}
MAX_PROGRAM_BYTES = 2 << 20

Tell = Callable[[dict[str, Any]], None]


class ProgramError(Exception):
    """The program died, answered nonsense, or raised what has no builtin name."""


def main() -> None:
    """Read a job, run it, report one JSON line an outcome."""
    line = os.fdopen(JOB, "r+b", buffering=0)

    def tell(message: dict[str, Any]) -> None:
        line.write(json.dumps(message).encode() + b"\n")

    with os.fdopen(TO_PROGRAM, "wb") as requests, os.fdopen(FROM_PROGRAM, "rb") as replies:
        job = json.loads(read_all(line))
        if replies.readline(len(READY)) != READY:
            return  # the confinement failed: nobody was started
        tell(STARTED)
        _run(job, _Program(requests, replies), tell)


def read_all(line: Any) -> bytes:
    """Everything up to the end that the trainer sets."""
    parts = []
    while part := line.read(1 << 16):
        parts.append(part)
    return b"".join(parts)


def _run(job: dict[str, Any], program: _Program, tell: Tell) -> None:
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(job["setup"], "<setup>", "exec"), namespace)
    except Exception as error:  # noqa: BLE001 - the data set's fault, whatever it is; the trainer tells it
        tell({"setup": first_line(error)})
        return
    try:
        for module in job["modules"]:
            importlib.import_module(module)
    except ImportError as error:
        tell({"setup": f"the tests' own import: {first_line(error)}"})
        return
    try:
        if job["same_process"]:
            program.ask("program", job["setup"], [], {}, limit=MAX_PROGRAM_BYTES)
        program.ask("program", job["program"], [], {}, limit=MAX_PROGRAM_BYTES)
    except Exception as error:  # noqa: BLE001 - whatever the program raised ends the job
        tell({"program": first_line(error)})
        return
    if job["same_process"]:
        for outcome in _in_the_program(program, job["tests"]):
            tell({"outcome": outcome})
        return
    namespace.update({name: program.proxy(name) for name in job["names"]})
    for test in job["tests"]:
        tell({"outcome": run_each([test], namespace)[0]})


def _in_the_program(program: _Program, tests: list[str]) -> list[str]:
    """What the program's own process says of the tests; it can say what it likes."""
    try:
        told = program.ask("tests", "", tests, {}, limit=MAX_PROGRAM_BYTES)[0]
    except Exception as error:  # noqa: BLE001 - it died under a test
        return [first_line(error)]
    return [str(outcome)[:300] for outcome in told][: len(tests)] if isinstance(told, list) else ["no outcomes"]


class _Program:
    """The other process, as something to call."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests = requests
        self._replies = replies

    def ask(
        self, kind: str, name: str, positional: list[Any], keywords: dict[str, Any], *, limit: int = MAX_BYTES
    ) -> tuple[Any, list[Any]]:
        try:
            self._requests.write(to_line((kind, name, positional, keywords), limit=limit))
            self._requests.flush()
        except OSError as error:
            raise ProgramError("the program ended") from error
        line = self._replies.readline(MAX_BYTES + 1)
        if not line.endswith(b"\n"):
            raise ProgramError("the program ended" if not line else "the program's answer is too long")
        try:
            tag, first, second = from_line(line)
        except ValueError as error:
            raise ProgramError(f"the program's answer is no plain data ({error})"[:200]) from error
        if tag == "error":
            raise _exception(str(first), str(second))
        if tag != "value":
            raise ProgramError(f"the program's answer is no plain data ({first}: {second})"[:200])
        return first, second if isinstance(second, list) else []

    def proxy(self, name: str) -> Callable[..., Any]:
        """A function that the other process answers; changes to mutable arguments come back."""

        def call(*positional: Any, **keywords: Any) -> Any:
            value, changed = self.ask("call", name, list(positional), keywords)
            for before, after in zip(positional, changed, strict=False):
                _copy_into(before, after)
            return value

        call.__name__ = name
        return call


def _copy_into(before: Any, after: Any) -> None:
    if type(before) is not type(after) or before == after:
        return
    if isinstance(before, list):
        before[:] = after
    elif isinstance(before, dict | set):
        before.clear()
        before.update(after)


_NOT_RAISED_AGAIN = (AssertionError, UnicodeError, StopIteration, StopAsyncIteration)
"""The last two would tell a loop over the program's answers, `all(map(f, xs))`, that there are no more."""


def _exception(name: str, message: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind not in _NOT_RAISED_AGAIN:
        try:
            return kind(message)
        except TypeError:
            pass
    return ProgramError(f"{name}: {message}")
