"""The trusted side: runs the data set's tests against proxies of the program's functions and reports each outcome.

Only this process knows the secret that starts a line of the report, and only the trainer reads its stdout.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from rewards.code.limits import limit_this_process
from rewards.code.plain_data import MAX_BYTES, from_line, to_line

SETUP_FAILED = "setup: "


class ProgramError(Exception):
    """The program died, answered nonsense, or raised what has no builtin name."""


def main(cpu_seconds: int, memory_mb: int, to_program: int, from_program: int) -> None:
    """Read a job from stdin, run it, report."""
    limit_this_process(cpu_seconds=cpu_seconds, memory_mb=memory_mb)
    job = json.loads(sys.stdin.buffer.read())
    report = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)

    def tell(outcome: str) -> None:
        report.write(job["secret"] + json.dumps(outcome) + "\n")
        report.flush()

    with os.fdopen(to_program, "wb") as requests, os.fdopen(from_program, "rb") as replies:
        _run(job, _Program(requests, replies), tell)


def _run(job: dict[str, Any], program: _Program, tell: Callable[[str], None]) -> None:
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(job["setup"], "<setup>", "exec"), namespace)
    except Exception as error:  # noqa: BLE001 - the data set's fault, whatever it is; the trainer tells it
        tell(f"{SETUP_FAILED}{_line(error)}")
        return
    try:
        program.ask("program", job["program"], [], {})
    except Exception as error:  # noqa: BLE001 - whatever the program raised ends the job
        tell(f"program: {_line(error)}")
        return
    namespace.update({name: program.proxy(name) for name in job["names"]})
    for index, test in enumerate(job["tests"]):
        try:
            exec(compile(test, "<test>", "exec"), namespace)
        except BaseException as error:  # noqa: BLE001 - a failed test may raise anything
            tell(f"test {index + 1} of {len(job['tests'])}: {_line(error)}")
        else:
            tell("")


def _line(error: BaseException) -> str:
    lines = f"{type(error).__name__}: {error}".rstrip(": ").splitlines() or [""]
    return lines[0][:300]


class _Program:
    """The other process, as something to call."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests = requests
        self._replies = replies

    def ask(self, kind: str, name: str, positional: list[Any], keywords: dict[str, Any]) -> tuple[Any, list[Any]]:
        try:
            self._requests.write(to_line((kind, name, positional, keywords)))
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
        if tag != "value":
            raise _exception(str(first), str(second))
        return first, second

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


def _exception(name: str, message: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (AssertionError, UnicodeError):
        try:
            return kind(message)
        except TypeError:
            pass
    return ProgramError(f"{name}: {message}")
