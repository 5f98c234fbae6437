"""Prompt and completion, told apart: as text, or in colour on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textenv.kernel import Kernel
from textenv.types import FinishReason

RENDER_MODES = ("ansi", "human")
METADATA: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}
PROMPT_COLOR, COMPLETION_COLOR, PLAIN = "\033[2m", "\033[32m", "\033[0m"


def as_text(kernel: Kernel, rows: Sequence[int]) -> list[str]:
    """`prompt:` and `completion:` of each row, and how it ended."""
    return [
        f"prompt: {kernel.prompt_text(row)}\ncompletion: {completion}{_outcome(kernel, row)}"
        for row, completion in zip(rows, kernel.completions(rows), strict=True)
    ]


def print_rows(kernel: Kernel, rows: Sequence[int]) -> None:
    """Each row in two colours."""
    for row, completion in zip(rows, kernel.completions(rows), strict=True):
        prompt = kernel.prompt_text(row)
        print(f"{PROMPT_COLOR}{prompt}{PLAIN}{COMPLETION_COLOR}{completion}{PLAIN}{_outcome(kernel, row)}")


def _outcome(kernel: Kernel, row: int) -> str:
    if not kernel.ended[row]:
        return ""
    reason = FinishReason(int(kernel.info["finish_reason"][row])).name.lower()
    return f"\nended: {reason}, reward {kernel.total_reward(row):g}"
