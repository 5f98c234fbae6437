"""The worker's side of `environments.Worker.start`: it loads once, then answers one question after the other.

Imported by scripts that run in a peer's environment, so it needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Answers = Mapping[str, Callable[..., Mapping[str, Any]]]


def answer(load: Callable[[dict[str, Any]], Answers]) -> None:
    """`load(settings)` gives functions by name; a question `{"do": name, ...}` is answered by what that one returns.

    Whatever libraries print goes to standard error, since standard output carries the answers, a line each.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(found: Mapping[str, Any]) -> None:
        replies.write(json.dumps(found) + "\n")

    functions = load(json.loads(sys.argv[1]))
    reply({"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        reply(functions[question.pop("do")](**question))
