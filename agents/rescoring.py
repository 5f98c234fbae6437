"""Stored completions under another reward: what would it have said, and how far is that from what was paid?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.config import EnvConfig
from agents.stored import Stored
from rewards.scoring import Verdict
from rewards.types import Sample
from textenv.ended import total
from textenv.settings import scorer_of


@dataclass(frozen=True, slots=True)
class Rescored:
    """A completion and both verdicts on it."""

    iteration: int
    episode: int
    sample: Sample
    before: Verdict
    after: Verdict

    @property
    def valid(self) -> bool:
        """Whether both rewards could say something."""
        return self.before.valid and self.after.valid

    @property
    def change(self) -> float:
        return total(self.after) - total(self.before)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two rewards compare over completions that both could score."""

    completions: int
    mean_before: float
    mean_after: float
    correlation: float
    """Pearson's; NaN where one of the rewards is constant."""
    correlation_in_groups: float
    """The same of the differences from the mean of the completions of a prompt: what GRPO learns from."""
    now_right: int
    """Reached `correct_at` under the new reward only."""
    now_wrong: int
    only_before: int
    """Could not be scored by the new reward."""
    only_after: int
    """Could not be scored by the old one."""


def rescore(stored: Iterable[Stored], reward: Any, env: EnvConfig) -> list[Rescored]:
    """Every completion scored by `reward`, a batch an iteration, as the environment would.

    In a conversation the old verdict contains what the turns were paid; the new one is the reward's alone. Raises
    `ValueError` for a reward that asks for a column that the task's rows do not have, `RewardError` as `env` says.
    """
    found: list[Rescored] = []
    with scorer_of(reward, env) as scorer:
        for one in stored:
            scorer.require(set.intersection(*(set(sample.row) for sample in one.samples)))
            episodes, after = one.rollout.episode.tolist(), scorer.score(one.samples)
            for episode, sample, was, now in zip(episodes, one.samples, one.verdicts, after, strict=True):
                found.append(Rescored(one.iteration, episode, sample, was, now))
    return found


def agreement(rescored: Sequence[Rescored], correct_at: float) -> Agreement:
    """The comparison; a completion is right from `correct_at` on. Raises `ValueError` where none can be compared."""
    both = [one for one in rescored if one.valid]
    if not both:
        raise ValueError(f"there is nothing to compare: of {len(rescored)} completions none has two scores")
    before, after = np.array([(total(one.before), total(one.after)) for one in both]).T
    right_before, right_after = before >= correct_at - 1e-6, after >= correct_at - 1e-6
    groups = np.unique([(one.iteration, one.sample.group_id) for one in both], axis=0, return_inverse=True)[1].ravel()
    return Agreement(
        completions=len(both),
        mean_before=float(before.mean()),
        mean_after=float(after.mean()),
        correlation=correlation(before, after),
        correlation_in_groups=correlation(centred(before, groups), centred(after, groups)),
        now_right=int((right_after & ~right_before).sum()),
        now_wrong=int((right_before & ~right_after).sum()),
        only_before=sum(one.before.valid and not one.after.valid for one in rescored),
        only_after=sum(one.after.valid and not one.before.valid for one in rescored),
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; NaN where one of them does not vary.

    >>> correlation(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])), correlation(np.zeros(2), np.arange(2))
    (1.0, nan)
    """
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 1e-12 else float("nan")


def centred(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each number less the mean of its group."""
    return x - (np.bincount(groups, x) / np.bincount(groups))[groups]


def most_changed(rescored: Sequence[Rescored], correct_at: float, count: int) -> list[Rescored]:
    """The examples to look at: those whose verdict is another one first, then by how much the score changed."""

    def worth_seeing(one: Rescored) -> tuple[bool, bool, float]:
        flipped = (total(one.before) >= correct_at - 1e-6) != (total(one.after) >= correct_at - 1e-6)
        return one.valid != (one.before.valid or one.after.valid), flipped, abs(one.change)

    changed = [one for one in rescored if one.before.valid != one.after.valid or abs(one.change) > 1e-9]
    return sorted(changed, key=worth_seeing, reverse=True)[:count]
