"""What a reward sees and says: `Sample` in, `Score` out. Text only; nothing here knows tokens or torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

Message = Mapping[str, str]
"""One chat message: `{"role": ..., "content": ...}`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished completion, with everything a reward may ask for by name."""

    prompt: str
    """The prompt as text (for a chat, its rendered form)."""
    completion: str
    """What the policy wrote, without the end-of-sequence token."""
    messages: tuple[Message, ...] = ()
    """The prompt as chat messages; empty when the task gave plain text."""
    finish_reason: str = "eos"
    """Why the episode ended: `eos`, `stop`, `budget`, `task`, `context`."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The task's columns for this problem: answer, tests, ..."""
    group_id: int = -1
    """Samples with equal, non-negative ids answer the same problem."""
    completion_ids: Any = field(default=None, compare=False)
    """The policy's tokens, end token included, where the caller has them: a sequence or a NumPy array of integers."""


@dataclass(frozen=True, slots=True)
class Score:
    """A reward's verdict on one sample. Raises `ValueError` when `value` or a span's reward is NaN or infinite."""

    value: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers worth a curve, logged under the reward's name."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Why: `reason`, and whatever helps a person to understand the value; `timed_out`, where a limit decided it."""
    spans: tuple[tuple[int, int, float], ...] = ()
    """`(start, end, reward)` over characters of the completion, paid in addition to `value`."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a score must be a finite number, got {self.value}")
        for _, _, reward in self.spans:
            if not math.isfinite(reward):
                raise ValueError(f"a score must be a finite number, got {reward}")

    def __float__(self) -> float:
        return float(self.value) + (sum(reward for _, _, reward in self.spans) if self.spans else 0.0)


def timed_out(overran: bool = True) -> dict[str, bool]:
    """What to put in a score's `info` where the completion overran a limit of time, so that it is counted."""
    return {"timed_out": True} if overran else {}


@runtime_checkable
class Reward(Protocol):
    """A batched reward. The simpler form is any function that takes what it needs by name and returns a number
    or a `Score`; both may be `async`."""

    def score_batch(self, samples: Sequence[Sample]) -> list[Score]: ...
