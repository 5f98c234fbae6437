"""What a worker is asked: one key, one answer, and the rules of their comparison. Free of sympy, as the trainer is."""

from __future__ import annotations

from dataclasses import dataclass

Verdict = tuple[bool | None, str]
"""Right or wrong, None where the key says nothing that can be judged, and the reason."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Texts as they were found; neither is ever evaluated as Python."""

    key: str
    answer: str
    decimals: int | None = None
    """So many digits behind the point suffice where the key is more exact."""
    inequalities: bool = True
    """Whether `x > 5` may answer for a key of `(5, \\infty)`."""
    copied: bool = False
    """Whether the answer stands in the prompt, letter by letter."""
