"""What a task offers and how an episode ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

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
    """One thing to answer: plain text or chat messages, and in `row` the columns that rewards may ask for."""

    prompt: str | tuple[Message, ...]
    row: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
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


def as_problem(value: Any) -> Problem:
    """A `Problem` from text, from chat messages, or from a mapping whose `prompt` is either and whose rest is the row.

    >>> as_problem({"prompt": "2 + 2 =", "answer": 4})
    Problem(prompt='2 + 2 =', row={'answer': 4})
    """
    if isinstance(value, Problem):
        return value
    if isinstance(value, Mapping):
        if "prompt" not in value:
            raise ValueError(f"a problem must have a prompt, got the columns {sorted(value)}")
        row = {name: column for name, column in value.items() if name != "prompt"}
        return Problem(as_problem(value["prompt"]).prompt, row)
    if isinstance(value, str):
        return Problem(value)
    if isinstance(value, Sequence) and value and all(_is_message(message) for message in value):
        return Problem(tuple(dict(message) for message in value))
    raise ValueError(f"a prompt must be text or a list of messages with role and content, got {value!r}")


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))
