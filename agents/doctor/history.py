"""What the rules read: the records of `metrics.jsonl`, and the few settings that a sentence needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from agents.config import TrainConfig
from agents.optim import num_minibatches
from agents.proxy import watched_parts

Record = Mapping[str, float]

RECENT = 10
"""Iterations that "now" means: enough to average out a batch, few enough to be the present."""
LEAST = 5
"""Iterations without which nothing is said: a single batch proves nothing."""
WINDOW = 20
"""Iterations within which a change counts as sudden."""
ENDS = 3
"""Iterations averaged at either end of a window."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings of a run by the meaning that rules give them; None: not known, then the rule leaves it out."""

    group_size: int | None = None
    compares_groups: bool = True
    """Whether completions are judged against the others of their prompt, so that one without variance is
    no use."""
    max_new_tokens: int | None = None
    max_grad_norm: float | None = None
    """Of the policy."""
    max_kl_old: float | None = None
    natural_steps: bool = False
    """TRPO: a step goes as far as `agent.max_kl` allows, and the optimizer is the critic's alone."""
    reference_every: int | None = None
    """Iterations after which the reference becomes the policy of then; None: it stays where the policy began."""
    epoch_steps: int | None = None
    """Optimizer steps after which every completion was in one."""
    critic_warmup: int = 0
    """First iterations in which the policy is held still on purpose."""
    max_invalid_share: float | None = None
    timeout_seconds: float | None = None
    scoring: str | None = None
    num_completions: int | None = None
    """Of an iteration."""
    num_problems: int | None = None
    """Held-out problems of an examination."""
    mismatch_limit: float | None = None
    """Nats a token at which the run refuses to go on."""
    failed_at: int | None = None
    """The iteration that ended the run since a loss was not finite."""
    watched: tuple[str, ...] = ()
    """Parts of the reward with weight 0."""

    @staticmethod
    def of(config: TrainConfig, *, num_problems: int | None = None, mismatch_limit: float | None = None) -> Setting:
        """Of a run's configuration. `num_problems`: where the task has fewer than the settings ask for."""
        agent: Any = config.agent
        return Setting(
            group_size=agent.group_size,
            compares_groups=getattr(agent, "baseline", "group") in ("group", "leave_one_out"),
            num_completions=agent.prompts * agent.group_size,
            max_new_tokens=config.env.max_new_tokens,
            max_grad_norm=None if agent.name == "trpo" else agent.optim.max_grad_norm,
            max_kl_old=getattr(agent, "max_kl_old", None),
            natural_steps=agent.name == "trpo",
            epoch_steps=num_minibatches(agent.optim, agent.prompts, agent.group_size),
            reference_every=agent.reference_every,
            critic_warmup=getattr(agent, "critic_warmup", 0),
            max_invalid_share=config.env.max_invalid_share,
            timeout_seconds=config.env.timeout_seconds,
            scoring=config.env.scoring,
            num_problems=num_problems or config.evaluation.problems,
            mismatch_limit=mismatch_limit,
            watched=tuple(watched_parts(config.reward)),
        )

    @property
    def step_setting(self) -> str:
        """What says how far an update of the policy goes."""
        return "agent.max_kl" if self.natural_steps else "agent.optim.learning_rate"


@dataclass(frozen=True, slots=True)
class History:
    """A run so far."""

    records: Sequence[Record]
    """In order; one of iteration 0, with the examination before training, may stand first."""
    setting: Setting = field(default_factory=Setting)

    def points(self, name: str) -> list[tuple[int, float]]:
        """`(iteration, number)` wherever there is a finite one."""
        found = [(int(record["iteration"]), record.get(name, math.nan)) for record in self.records]
        return [(iteration, number) for iteration, number in found if math.isfinite(number)]

    def recent(self, name: str, count: int = RECENT) -> list[float]:
        """The finite numbers of the last `count` iterations, oldest first."""
        numbers = [record.get(name, math.nan) for record in self.records[-count:]]
        return [number for number in numbers if math.isfinite(number)]

    def mean(self, name: str, count: int = RECENT) -> float | None:
        """Of the last `count` iterations; None where fewer than `LEAST` of them have it."""
        numbers = self.recent(name, count)
        return fmean(numbers) if len(numbers) >= LEAST else None

    def change(self, name: str, count: int = WINDOW) -> tuple[float, float] | None:
        """The number at the beginning and at the end of the last `count` iterations, each a mean of `ENDS`; None for
        fewer than `LEAST` + `ENDS`."""
        numbers = self.recent(name, count)
        return None if len(numbers) < LEAST + ENDS else (fmean(numbers[:ENDS]), fmean(numbers[-ENDS:]))

    def around(self, name: str, iteration: int) -> float | None:
        """The mean over the `LEAST` iterations up to `iteration`, or the first ones where it is earlier."""
        points = self.points(name)
        before = [number for at, number in points if at <= iteration][-LEAST:]
        numbers = before if len(before) == LEAST else [number for _, number in points[:LEAST]]
        return fmean(numbers) if numbers else None

    def span(self, count: int) -> int:
        """How many iterations the last `count` records cover."""
        return min(count, len([r for r in self.records if r["iteration"] > 0]))


def success_rate(history: History) -> float | None:
    """The mean reward now, where every completion is worth 0 or 1: only then is the variance p (1 - p).

    None for other rewards, and where there is too little to tell.
    """
    means, stds = history.recent("reward/mean"), history.recent("reward/std")
    if len(means) < LEAST or len(means) != len(stds):
        return None
    binary = all(abs(std**2 - mean * (1 - mean)) < 1e-3 for mean, std in zip(means, stds, strict=True))
    return fmean(means) if binary else None


def mastered(history: History, share: float = 0.9) -> bool:
    """Whether hardly anything is left to learn: `share` of the completions, or of the held-out problems, are right."""
    rate, examined = success_rate(history), history.points("eval/accuracy")
    return (rate is not None and rate >= share) or bool(examined and examined[-1][1] >= share)


def reward_rises(history: History, then: float | None, now: float | None) -> bool:
    """Whether the reward has grown: by a tenth of what completions differ by, and by two standard errors of the
    difference of two means over `LEAST` iterations."""
    spread, count = history.mean("reward/std") or 0.0, history.setting.num_completions
    error = spread * math.sqrt(2 / (LEAST * count)) if count else 0.0
    return then is not None and now is not None and now - then > max(0.1 * spread, 2 * error, 1e-9)
