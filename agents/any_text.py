r"""Any text that a model, a task or a grader comes up with, on its way to a file or a terminal.

Half of a surrogate pair, which a completion of `"\ud800"` becomes where a reward reads it as JSON, has no place in
UTF-8: written as it is, it would end a run. It leaves as its escape, from which JSON makes the same text again.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from typing import Any


def json_line(record: Mapping[str, Any]) -> str:
    r"""The record as a line of JSON Lines.

    >>> json_line({"a": "\u00e9 \ud800"})
    '{"a": "é \\ud800"}\n'
    """
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def print_any_text() -> None:
    """Let this process print what its terminal cannot show, as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
