"""The untrusted side: runs a program and answers calls of its functions with plain data; or runs it as a script.

It never sees the tests (unless `same_process` asks for it) and holds nothing that decides: lying here only changes the
values that the tests look at.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import threading
import types
from collections.abc import Sequence
from typing import IO, Any

from rewards.code.plain_data import from_line, to_line

REQUESTS, REPLIES = 4, 5
"""Where the descriptors lie. Stdin, stdout and stderr are a script's own, or lead to /dev/null."""
READY = b"ready\n"


def main(*, script: bool, folder: str) -> int:
    """Say that the confinement is in force, then do what is asked; the exit status."""
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = folder
    tempfile.tempdir = None  # the server's own, remembered
    requests, replies = os.fdopen(REQUESTS, "rb"), os.fdopen(REPLIES, "wb")
    replies.write(READY)
    replies.flush()
    if not script:
        module = _module("program")
        for line in requests:
            replies.write(_reply(module, *from_line(line)))
            replies.flush()
        return 0
    program = from_line(requests.readline())
    requests.close()
    replies.close()
    return _run_script(program)


def _module(name: str) -> types.ModuleType:
    """Where the program's names live; dataclasses and pickles look for it among the modules."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


def _reply(module: types.ModuleType, kind: str, name: str, positional: list[Any], keywords: dict[str, Any]) -> bytes:
    namespace = module.__dict__
    try:
        if kind == "program":
            exec(compile(name, "<program>", "exec"), namespace)
            return to_line(("value", None, []))
        if kind == "tests":
            return to_line(("value", run_each(positional, namespace), []))
        if name not in namespace:
            raise NameError(f"the program does not define {name!r}")
        value = namespace[name](*positional, **keywords)
    except BaseException as error:  # noqa: BLE001 - whatever a program raises is its answer, SystemExit too
        return to_line(("error", type(error).__name__, str(error)[:300]))
    try:
        return to_line(("value", value, positional))
    except Exception as error:  # noqa: BLE001 - an object that the program made may do anything when looked at
        return to_line(("no plain data", type(error).__name__, str(error)[:300]))


def run_each(tests: Sequence[str], namespace: dict[str, Any]) -> list[str]:
    """The outcome of each test source, in one namespace: "" for passed, else what it raised."""
    outcomes = []
    for test in tests:
        try:
            exec(compile(test, "<test>", "exec"), namespace)
        except BaseException as error:  # noqa: BLE001 - a failed test may raise anything
            outcomes.append(first_line(error))
        else:
            outcomes.append("")
    return outcomes


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    lines = f"{type(error).__name__}: {error}".rstrip(": ").splitlines() or [""]
    return lines[0][:300]


def _run_script(program: str) -> int:
    """As `python program.py` would: the exit status, with the last exception's line on stderr."""
    module = _module("__main__")
    sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w")
    status = 0
    try:
        exec(compile(program, "<program>", "exec"), module.__dict__)
    except SystemExit as leaving:
        status = _status(leaving.code)
    except BaseException as error:  # noqa: BLE001 - what ends a script, whatever it is
        print(first_line(error), file=sys.stderr)
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


def _text(descriptor: int, mode: str) -> IO[str]:
    return open(descriptor, mode, encoding="utf-8", errors="replace", closefd=False)


def _status(code: object) -> int:
    """The exit status of `sys.exit(code)`."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1
