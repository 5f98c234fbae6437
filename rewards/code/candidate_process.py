"""The untrusted side: runs the program once, then answers calls of its functions with plain data.

It never sees the tests and holds nothing that decides: lying here only changes the values that the tests look at.
"""

from __future__ import annotations

import os
from typing import Any

from rewards.code.limits import limit_this_process, private_stdio
from rewards.code.plain_data import from_line, to_line


def main(cpu_seconds: int, memory_mb: int) -> None:
    """Answer until the pipe closes."""
    limit_this_process(cpu_seconds=cpu_seconds, memory_mb=memory_mb)
    incoming, outgoing = private_stdio()
    with os.fdopen(incoming, "rb") as requests, os.fdopen(outgoing, "wb") as replies:
        namespace: dict[str, Any] = {"__name__": "program"}
        for line in requests:
            replies.write(_reply(namespace, *from_line(line)))
            replies.flush()


def _reply(namespace: dict[str, Any], kind: str, name: str, positional: list[Any], keywords: dict[str, Any]) -> bytes:
    try:
        if kind == "program":
            exec(compile(name, "<program>", "exec"), namespace)
            return to_line(("value", None, []))
        if name not in namespace:
            raise NameError(f"the program does not define {name!r}")
        return to_line(("value", namespace[name](*positional, **keywords), positional))
    except BaseException as error:  # noqa: BLE001 - whatever a program raises is its answer, SystemExit too
        return to_line(("error", type(error).__name__, str(error)[:300]))
