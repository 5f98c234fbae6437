"""What it took to reach a target, where some runs end before they do: those are censored, they took more than that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AMOUNTS = {"tokens": "num_tokens", "seconds": "time/train_seconds"}
"""Amount and its name in a point of a curve."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What it took to reach the target; `censored`: at least that much, since the run ended before."""

    seconds: float
    tokens: float
    censored: bool

    def shown(self, name: str, digits: int = 0) -> str:
        """As in a table.

        >>> Reach(10.4, 2000.0, censored=True).shown("tokens")
        'more than 2,000'
        """
        return f"{'more than ' if self.censored else ''}{getattr(self, name):,.{digits}f}"


def reach(points: Sequence[Mapping[str, float]], target: float, *, seconds: float, tokens: float) -> Reach:
    """The first examination at or above the target; `seconds` and `tokens` are those of the whole run."""
    for point in points:
        if point["eval/accuracy"] >= target:
            return Reach(point["time/train_seconds"], point["num_tokens"], censored=False)
    return Reach(seconds, tokens, censored=True)


@dataclass(frozen=True, slots=True)
class PairedReach:
    """Two agents with the same seeds, on the way to the same target."""

    log_ratios: tuple[float, ...]
    """Of what the second took to what the first took, a seed; times are cut off where the first censored run of a seed
    ended, since nothing is known of what came after it."""
    first_censored: int
    """Seeds with which the first agent never reached the target."""
    second_censored: int

    @property
    def bound(self) -> str:
        """What the mean of the ratios is: a measurement (``), `at most`, `at least`, or `undetermined`."""
        if self.first_censored and self.second_censored:
            return "undetermined"
        return "at most" if self.first_censored else "at least" if self.second_censored else ""


def pair(first: Sequence[Reach], second: Sequence[Reach], name: str) -> PairedReach | None:
    """Ratios by seed of one of `AMOUNTS`; None where the untrained policy is at the target, or nobody ever reached it.

    Under equal agents a ratio of times cut off at the same place is as often above 1 as below, so a test of it raises
    no false alarms; a difference shows smaller than it is.

    >>> pair([Reach(10, 100, False)], [Reach(30, 300, True)], "seconds")
    PairedReach(log_ratios=(1.0986122886681098,), first_censored=0, second_censored=1)
    """
    ratios = []
    for a, b in zip(first, second, strict=True):
        x, y = (getattr(reached, name) for reached in (a, b))
        limit = min([amount for amount, reached in ((x, a), (y, b)) if reached.censored], default=math.inf)
        if x <= 0 or y <= 0:
            return None
        ratios.append(math.log(min(y, limit) / min(x, limit)))
    censored = [sum(reached.censored for reached in some) for some in (first, second)]
    if censored == [len(first), len(second)]:
        return None
    return PairedReach(tuple(ratios), *censored)
