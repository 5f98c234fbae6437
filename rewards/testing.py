"""For authors of rewards: what `python -m rewards.check` does, as an assertion in a test.

from rewards.testing import check_reward

def test_my_reward_survives():
    check_reward(my_reward, [{"prompt": "2 + 2?", "completion": "4", "answer": 4}])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.examine import FAULTS, Fault, Line, check_allowed, examine
from rewards.hostile import Hostile, hostile_samples, hostile_texts
from rewards.rows import parse_row
from rewards.types import Sample

__all__ = ["FAULTS", "Fault", "Hostile", "Line", "check_reward", "hostile_samples", "hostile_texts"]


def check_reward(
    reward: Any,
    rows: Sequence[Sample | Mapping[str, Any]] = (),
    *,
    hostile: bool = True,
    allow: Sequence[str] = (),
    timeout_seconds: float = 10.0,
) -> list[Line]:
    """What a reward made of the rows and the hostile set. Raises `AssertionError` with all faults that are not allowed.

    `reward` is what `rewards.as_parts` takes; a row is a `Sample`, or a mapping with `completion`, `prompt` and the
    task's columns. `allow` names faults, as in `FAULTS`, that are none here: a reward for brevity may pay for nothing.
    What another process can import is killed when it hangs; of a lambda, or a function inside a test, a hang is named,
    too, but its thread goes on, and code that never lets go of the interpreter cannot be ended.

    Raises `ValueError` for a reward that asks for columns which the rows do not have.

    >>> lines = check_reward("rewards.format.TagFormat", [{"completion": "<think>1</think><answer>2</answer>"}])
    >>> lines[0].total
    1.0
    """
    check_allowed(allow)
    samples = [row if isinstance(row, Sample) else parse_row(row) for row in rows]
    lines = list(examine(reward, samples, hostile=hostile, timeout_seconds=timeout_seconds))
    faults = [fault for line in lines for fault in line.faults if fault.kind not in allow]
    if faults:
        told = "\n".join(str(fault) for fault in faults[:20])
        raise AssertionError(f"faults found: {len(faults)}\n{told}")
    return lines
