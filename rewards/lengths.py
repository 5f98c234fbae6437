"""Penalties for the length of a completion: a window of lengths, and DAPO's soft overlong punishment.

Both are 0 where the length is as asked and fall in a straight line to -1, so they are added to a reward with a weight.
"""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import dataclass

from rewards.types import Score

UNITS = ("tokens", "characters", "words")


@dataclass(frozen=True)
class LengthPenalty:
    """0.0 for a length from `min_length` to `max_length`, falling to -1.0 over `margin` units outside of them.

    >>> short = LengthPenalty(max_length=10, margin=20, unit="characters")
    >>> [short(completion="a" * n).value for n in (10, 15, 40)]
    [0.0, -0.25, -1.0]
    """

    execution = "inline"  # counts only

    min_length: float = 0
    max_length: float | None = None
    """None: as long as you like."""
    margin: float = 100
    """0: a step, -1.0 at once."""
    unit: str = "tokens"
    """`tokens`, `characters`, or `words` (runs of non-space)."""
    characters_per_token: float = 4.0
    """The estimate of a token where the caller has no `completion_ids` (a table of texts; `agents` always has them).
    `metrics["estimated"]` is 1 then."""

    def __post_init__(self) -> None:
        _check_unit(self.unit, self.characters_per_token)
        for name in ("min_length", "margin"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)!r}")
        if self.max_length is not None and not self.max_length >= self.min_length:
            raise ValueError(f"max_length must be at least min_length ({self.min_length}), got {self.max_length!r}")
        if self.max_length is None and not self.min_length:
            raise ValueError("min_length or max_length must be given: without both nothing is ever penalized")

    def __call__(self, completion: str, completion_ids: Sized | None = None) -> Score:
        length, estimated = measured(completion, completion_ids, self.unit, self.characters_per_token)
        longest = math.inf if self.max_length is None else self.max_length
        excess = max(self.min_length - length, length - longest, 0.0)
        return _penalty(excess, self.margin, length, estimated, self.unit)


@dataclass(frozen=True)
class SoftOverlong:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13): the last `cache_tokens` before the limit cost.

    With L tokens, their end token included: 0 up to `max_tokens - cache_tokens`, then
    `((max_tokens - cache_tokens) - L) / cache_tokens`, and -1 above `max_tokens`.

    >>> SoftOverlong(max_tokens=100, cache_tokens=40)(completion="", completion_ids=range(70)).value
    -0.25
    """

    execution = "inline"  # counts only

    max_tokens: int
    """The paper's L_max: `env.max_new_tokens` of the run, or less."""
    cache_tokens: int
    """The paper's L_cache: a fifth of L_max there."""
    characters_per_token: float = 4.0
    """As in `LengthPenalty`."""

    def __post_init__(self) -> None:
        _check_unit("tokens", self.characters_per_token)
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens!r}")
        if not 1 <= self.cache_tokens <= self.max_tokens:
            raise ValueError(
                f"cache_tokens must be from 1 to max_tokens ({self.max_tokens}), got {self.cache_tokens!r}"
            )

    def __call__(self, completion: str, completion_ids: Sized | None = None) -> Score:
        length, estimated = measured(completion, completion_ids, "tokens", self.characters_per_token)
        excess = max(length - (self.max_tokens - self.cache_tokens), 0.0)
        return _penalty(excess, self.cache_tokens, length, estimated, "tokens")


def measured(
    completion: str, completion_ids: Sized | None, unit: str, characters_per_token: float
) -> tuple[float, bool]:
    """The length in a unit, and whether it is an estimate."""
    if unit == "tokens" and completion_ids is None:
        return len(completion) / characters_per_token, True
    if unit == "tokens":
        assert completion_ids is not None
        return float(len(completion_ids)), False
    return float(len(completion) if unit == "characters" else len(completion.split())), False


def _penalty(excess: float, margin: float, length: float, estimated: bool, unit: str) -> Score:
    value = 0.0 if excess <= 0 else -1.0 if excess >= margin else -excess / margin
    about = "about " if estimated else ""
    info = {"reason": f"{about}{length:g} {unit}, {excess:g} outside"} if excess else {}
    return Score(value, metrics={"length": length, "estimated": float(estimated)}, info=info)


def _check_unit(unit: str, characters_per_token: float) -> None:
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    if not 0 < characters_per_token < math.inf:
        raise ValueError(f"characters_per_token must be above 0 and finite, got {characters_per_token!r}")
