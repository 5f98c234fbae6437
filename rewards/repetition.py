"""A penalty for n-grams that come again, as in Open-R1 (after arXiv 2502.03373, appendix C.2).

There, (distinct / all n-grams - 1) of the words between spaces. Here punctuation marks are words of their own and long
runs of letters are cut into pieces, so that text without spaces ("aaaa...", "!!!!...") does not escape.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rewards.types import Score

UNITS = ("words", "characters", "tokens")
_WORDS = re.compile(r"\w{1,24}|[^\w\s]")


@dataclass(frozen=True)
class RepetitionPenalty:
    """0.0 where at most `tolerance` of the n-grams are repeats, falling in a straight line to -1.0 where all are.

    A completion of fewer than `ngram` units has none and costs nothing.

    >>> RepetitionPenalty(ngram=2)(completion="to be or not to be").value  # one of five pairs is a repeat
    -0.2
    """

    execution = "inline"  # one linear pass

    ngram: int = 3
    tolerance: float = 0.0
    """Share of repeats that costs nothing; plain prose has some."""
    unit: str = "words"
    """`words` in any case; `characters` for scripts without spaces; `tokens` where the caller has `completion_ids`."""

    def __post_init__(self) -> None:
        if not isinstance(self.ngram, int) or self.ngram < 1:
            raise ValueError(f"ngram must be a whole number of at least 1, got {self.ngram!r}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must be from 0 to below 1, got {self.tolerance!r}")
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {self.unit!r}")

    def __call__(self, completion: str, completion_ids: Sequence[int] | None = None) -> Score:
        share = repeated_share(self._units(completion, completion_ids), self.ngram)
        excess = max(share - self.tolerance, 0.0) / (1 - self.tolerance)
        info = {"reason": f"{share:.0%} of the {self.ngram}-grams are repeats"} if excess else {}
        return Score(-excess if excess else 0.0, metrics={"repeated_share": share}, info=info)

    def _units(self, completion: str, completion_ids: Sequence[int] | None) -> Sequence[Hashable]:
        if self.unit == "words":
            return _WORDS.findall(completion.lower())
        if self.unit == "characters":
            return completion
        if completion_ids is None:
            raise ValueError("unit 'tokens' must have completion_ids, this sample has none")
        return [int(token) for token in completion_ids]


def repeated_share(units: Sequence[Hashable], ngram: int) -> float:
    """Share of the n-grams that were there before, from 0 to below 1; 0 where there is none."""
    total = len(units) - ngram + 1
    if total < 1:
        return 0.0
    distinct = set(zip(*(units[shift : shift + total] for shift in range(ngram)), strict=True))
    return (total - len(distinct)) / total
