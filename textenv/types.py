"""What a task offers and how an episode ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from rewards.types import Message


class FinishReason(IntEnum):
    """Why an episode ended; `infos["finish_reason"]` carries the number."""

    RUNNING = 0
    EOS = 1
    """An end-of-sequence token."""
    STOP = 2
    """A stop string."""
    BUDGET = 3
    """`max_new_tokens` policy tokens were written."""
    TASK = 4
    """The task itself ended the episode."""
    CONTEXT = 5
    """Prompt and injected tokens filled the observation."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to answer. `prompt` is plain text or chat messages; `row` holds the columns that rewards may ask for."""

    prompt: str | tuple[Message, ...]
    row: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """Problems in disjoint splits, deterministic by index, and the reward that belongs to them."""

    name: str
    columns: frozenset[str]
    """Names that every problem's `row` provides."""

    def split(self, name: str) -> Sequence[Problem]:
        """The problems of `"train"` or `"test"`; raises `ValueError` for another name."""
        ...

    def reward(self) -> Any:
        """The default reward: a function, a `Reward`, or a mapping name -> part (see `rewards.combine`)."""
        ...
