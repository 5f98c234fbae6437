"""What executing the parts of a reward costs, and how often it fails: counted per part, told per iteration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rewards.errors import Failure
from rewards.inline import Answered
from rewards.types import Score

MAX_KEPT = 100_000
"""Calls of a part that percentiles are taken of; a report that nobody asks for must not grow without end."""


@dataclass(slots=True)
class Ledger:
    """Of one part, since the last report. Not thread-safe: a scorer is used by one thread at a time."""

    calls: int = 0
    errors: int = 0
    """Samples that the part said nothing of."""
    timeouts: int = 0
    """What was given up for its time, those included whose overrun is the policy's doing and a plain 0: calls, and of
    a batched part's call that came back the samples whose scores say so."""
    cached: int = 0
    """Scores that were known from before, so that no call was made."""
    seconds: list[float] = field(default_factory=list)
    queued_seconds: list[float] = field(default_factory=list)

    def enter(self, answered: Iterable[Answered]) -> None:
        """Count these calls."""
        for answer, seconds, queued_seconds in answered:
            self.calls += 1
            self.timeouts += num_timeouts(answer)
            if len(self.seconds) < MAX_KEPT:
                self.seconds.append(seconds)
                self.queued_seconds.append(queued_seconds)

    def metrics(self) -> dict[str, float]:
        """Counts, and percentiles in seconds: of a call's own time, and of the time until its turn came."""
        counts = {"calls": self.calls, "errors": self.errors, "timeouts": self.timeouts, "cached": self.cached}
        numbers = {name: float(count) for name, count in counts.items()}
        if self.seconds:
            numbers |= {f"seconds_p{share}": percentile(self.seconds, share) for share in (50, 95, 100)}
            numbers["queue_seconds_p95"] = percentile(self.queued_seconds, 95)
        return numbers


def num_timeouts(answer: Any) -> int:
    """How often a call's answer tells of an overrun: a failure for it, or scores that say so.

    >>> num_timeouts([Score(0.0, info={"timed_out": True}), Score(1.0)]), num_timeouts(Failure("slow", timed_out=True))
    (1, 1)
    """
    if isinstance(answer, list):
        return sum(map(num_timeouts, answer))
    if isinstance(answer, Score):
        return int(bool(answer.info) and bool(answer.info.get("timed_out")))
    return int(isinstance(answer, Failure) and answer.timed_out)


def percentile(values: Iterable[float], share: int) -> float:
    """The smallest value that at least `share` percent do not exceed (nearest rank); no interpolation.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 50), percentile([4.0, 1.0, 3.0, 2.0], 95)
    (2.0, 4.0)
    """
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]
