"""How a grader's failure is told: `Failure` where one call went wrong, `RewardError` where the run must end."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

TRACE_LINES = 5


class RewardError(RuntimeError):
    """A reward failed in a way that the run must not survive."""


class Cancelled(RewardError):
    """Nobody wants these scores any more: whoever computed them was told to stop."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One call that gave no score, through no fault of the policy."""

    reason: str
    trace: str = ""
    """At most the last five lines of the traceback."""
    timed_out: bool = False
    out_of_memory: bool = False
    """It asked for more than its own process may have; not: somebody killed that process."""


def failure_of(error: BaseException) -> Failure:
    """The failure that an exception of a reward amounts to."""
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    trace = "\n".join(line[:200] for line in lines[-TRACE_LINES:])
    return Failure(reason[:500], trace, out_of_memory=isinstance(error, MemoryError))
