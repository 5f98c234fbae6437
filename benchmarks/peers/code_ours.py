"""A worker: programs graded by `rewards.code`, without the layers in `without`, on as many cores as `cores` says."""

from __future__ import annotations

import json
import sys
from typing import Any

from code_problems import measure

from rewards import Sample
from rewards.code import UnitTests

ASKED = json.loads(sys.argv[1])
REWARD = UnitTests(timeout_seconds=3.0, without=ASKED["without"], require=ASKED["require"], concurrency=ASKED["cores"])


def grade(problems: list[dict[str, Any]]) -> int:
    """How many of the solutions pass."""
    samples = [Sample("", row["prompt"] + row["canonical_solution"], row=columns(row)) for row in problems]
    return sum(getattr(score, "value", 0.0) == 1.0 for score in REWARD.score_batch(samples))


def columns(row: dict[str, Any]) -> dict[str, Any]:
    """HumanEval's tests call helpers that its prompts define; the trivial problem's prompt is no program by itself."""
    setup = row["prompt"] if row["task_id"] != "trivial" else ""
    return {"tests": row["test"], "entry_point": row["entry_point"], "setup": setup}


if __name__ == "__main__":
    measure(grade)
