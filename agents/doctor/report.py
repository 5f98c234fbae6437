"""All rules, and what they found in lines for people."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from agents.doctor.clock import waits_for_rewards
from agents.doctor.completions import length_collapsed, length_exploded, truncated
from agents.doctor.critic import critic_knows_nothing
from agents.doctor.finding import ALARM, Finding
from agents.doctor.held_out import held_out_still, over_optimized, watched_falls
from agents.doctor.history import History
from agents.doctor.policy import entropy_fell, hardly_moved, kl_runs_away, loss_is_zero, sampler_mismatch
from agents.doctor.rewards import constant_reward, grader_timeouts, groups_alike, nothing_scored, solved, ungraded
from agents.doctor.update import (
    clip_share_high,
    ended_early,
    gradient_clipped,
    loss_not_finite,
    steps_long,
    steps_refused,
)

Rule = Callable[[History], Finding | None]

RULES: tuple[Rule, ...] = (
    loss_not_finite,
    nothing_scored,
    constant_reward,
    groups_alike,
    ungraded,
    grader_timeouts,
    over_optimized,
    watched_falls,
    held_out_still,
    truncated,
    length_collapsed,
    length_exploded,
    entropy_fell,
    hardly_moved,
    kl_runs_away,
    sampler_mismatch,
    clip_share_high,
    steps_long,
    ended_early,
    steps_refused,
    gradient_clipped,
    critic_knows_nothing,
    waits_for_rewards,
    solved,
    loss_is_zero,
)
WIDTH = 110


def examine(history: History) -> list[Finding]:
    """What all rules find, alarms first."""
    found = [finding for rule in RULES if (finding := rule(history)) is not None]
    return sorted(found, key=lambda finding: finding.level != ALARM)


def counted(findings: Sequence[Finding]) -> str:
    """How many rules spoke.

    >>> counted([])
    'none of 25 rules found anything'
    """
    if not findings:
        return f"none of {len(RULES)} rules found anything"
    return f"{len(findings)} of {len(RULES)} rules found something"


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """A finding's statement and, below it, its advice; `!` marks an alarm."""
    lines: list[str] = []
    for finding in findings:
        mark = "!" if finding.level == ALARM else "·"
        lines += _wrapped(_sentence(finding.says), f"  {mark} ")
        lines += _wrapped(finding.advice, "    → ")
    return lines


def in_one_line(finding: Finding) -> str:
    """For the notes of a running training."""
    return f"{_sentence(finding.says)} → {finding.advice}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _wrapped(text: str, first: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False)
