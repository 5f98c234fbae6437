"""Prompt and completion, told apart: as text, or in colour on the terminal."""

from __future__ import annotations

from typing import Any

from textenv.kernel import INJECTED, POLICY, Kernel

RENDER_MODES = ("ansi", "human")
METADATA: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}
PROMPT_COLOR, PLAIN = "\033[2m", "\033[0m"
COLORS = {POLICY: "\033[32m", INJECTED: "\033[36m"}
NAMES = {POLICY: "completion", INJECTED: "reply"}


def as_text(kernel: Kernel, rows: list[int]) -> list[str]:
    """`prompt:`, `completion:` and, in a conversation, `reply:` of each row, and how it ended."""
    return [
        f"prompt: {kernel.prompt_text(row)}\n{_written(kernel, row, completion)}{_outcome(kernel, row)}"
        for row, completion in zip(rows, kernel.completions(rows), strict=True)
    ]


def _written(kernel: Kernel, row: int, completion: str) -> str:
    if kernel.converses is None:
        return f"completion: {completion}"
    return "\n".join(f"{NAMES[segment]}: {text}" for segment, text in kernel.parts(row)) or "completion: "


def print_rows(kernel: Kernel, rows: list[int]) -> None:
    """Each row, the policy's words in colour."""
    for row, completion in zip(rows, kernel.completions(rows), strict=True):
        parts = [(POLICY, completion)] if kernel.converses is None else kernel.parts(row)
        shown = "".join(f"{COLORS[segment]}{text}{PLAIN}" for segment, text in parts)
        print(f"{PROMPT_COLOR}{kernel.prompt_text(row)}{PLAIN}{shown}{_outcome(kernel, row)}")


def _outcome(kernel: Kernel, row: int) -> str:
    return f"\n{outcome}" if (outcome := kernel.outcome(row)) else ""
