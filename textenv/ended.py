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
    """A finished episode that is to be scored."""

    row: int
    episode_index: int
    sample: Sample
    failure: str
    """Why the task or the other side failed in it; empty where they did not."""
    paid: float
    """What its turns were worth as they came, the last one included."""
    last_turn: float
    """What the turn that ended it was worth, which stands on the same token as the score."""


def batch_of(due: Sequence[Due]) -> Batch:
    """The samples of one step, as the scorer takes them."""
    return Batch([one.sample for one in due], {place: one.failure for place, one in enumerate(due) if one.failure})


def scored(due: Due, verdict: Verdict) -> Scored:
    """The verdict with what the turns were paid; where something failed, `on_error` has said what counts."""
    if due.paid and verdict.valid and not due.failure:
        verdict = verdict._replace(value=verdict.value + due.paid)
    ended = Ended(due.sample, verdict, due.episode_index)
    return Scored(due.row, ended, due.last_turn + (total(verdict) - due.paid))


def total(verdict: Verdict) -> float:
    """The value and all its spans, as `step` pays it on the last token."""
    return verdict.value + (sum(reward for _, _, reward in verdict.spans) if verdict.spans else 0.0)
