"""Episodes that are over: what is scored, what came of it, and what their last token is paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rewards.scoring import Batch, Verdict
from rewards.types import Sample


class Ended(NamedTuple):
    """A finished episode, for logs and viewers."""

    sample: Sample
    verdict: Verdict
    episode_index: int


class Scored(NamedTuple):
    """A finished episode whose score is there."""

    row: int
    ended: Ended
    reward: float
    """What immediate scoring pays in the step that ended the episode: the score, and what the last turn of a
    conversation is paid."""


class Due(NamedTuple):
    """The episodes that one step ended and that are to be scored, column by column."""

    rows: list[int]
    episodes: list[int]
    """Their `episode_index`."""
    samples: list[Sample]
    failures: dict[int, str]
    """Places of those in which the task or the other side failed, and why."""
    paid: list[float]
    """What their turns were worth as they came, the last one included; empty where there are no turns."""
    last_turn: list[float]
    """What the turn that ended each was worth, which stands on the same token as the score; empty as `paid`."""

    @property
    def batch(self) -> Batch:
        """As the scorer takes them."""
        return Batch(self.samples, self.failures)


def settled(due: Due, verdicts: Sequence[Verdict]) -> tuple[list[Ended], list[float]]:
    """The finished episodes, and what is paid on the last token of each.

    A verdict's value has what the turns were paid in it; where something failed, `on_error` has said what counts.
    """
    if not due.paid:
        return list(map(Ended, due.samples, verdicts, due.episodes)), list(map(total, verdicts))
    verdicts = [
        verdict._replace(value=verdict.value + paid) if verdict.valid and place not in due.failures else verdict
        for place, (verdict, paid) in enumerate(zip(verdicts, due.paid, strict=True))
    ]
    rewards = [
        turn + (total(verdict) - paid) for turn, verdict, paid in zip(due.last_turn, verdicts, due.paid, strict=True)
    ]
    return list(map(Ended, due.samples, verdicts, due.episodes)), rewards


def total(verdict: Verdict) -> float:
    """The value and all its spans, as `step` pays it on the last token."""
    return verdict.value + (sum(reward for _, _, reward in verdict.spans) if verdict.spans else 0.0)
