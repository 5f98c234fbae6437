"""Rules about the completions themselves: cut off, collapsed, ever longer."""

from __future__ import annotations

from agents.doctor.finding import ALARM, NOTE, Finding
from agents.doctor.history import WINDOW, History, mastered, reward_rises

MANY_CUT = 0.2
"""One answer in five: enough to move the mean reward by as much as an iteration does."""
ALL_CUT = 0.99
"""Then length is the task's or the budget's, and not the answer's; some policy always says its end by accident."""
FALLING = 0.7
"""A share that has fallen to less than this part of itself is on its way."""
COLLAPSED, EXPLODED = 1 / 3, 2.0
"""Factors of the length within `WINDOW` iterations; slower changes, and those that the reward follows, are learning."""
SHORT = 4.0
"""Tokens; what begins shorter cannot collapse."""


def truncated(history: History) -> Finding | None:
    """Completions end because their budget does."""
    share = history.mean("completions/clipped_ratio")
    if share is None or share < MANY_CUT or mastered(history):
        return None
    shares = history.recent("completions/clipped_ratio")
    half = len(shares) // 2
    if sum(shares[half:]) / (len(shares) - half) < FALLING * sum(shares[:half]) / half:
        return None  # the policy is learning to end
    limit = history.setting.max_new_tokens
    budget = "" if limit is None else f" (env.max_new_tokens={limit})"
    if share >= ALL_CUT and any(history.recent("reward/std")):
        return Finding(
            "truncated",
            NOTE,
            f"{'every' if share == 1 else 'nearly every'} completion ends with its budget{budget}",
            "right where answers have one length; else the policy cannot end, and the score is that of cut answers",
            share,
        )
    return Finding(
        "truncated",
        ALARM,
        f"{share:.0%} of the completions are truncated: the score is measured on cut answers{budget}",
        "raise env.max_new_tokens, ask for shorter answers (env.system_prompt, reward=soft_overlong), or end them by "
        "env.stop_strings",
        share,
    )


def length_collapsed(history: History) -> Finding | None:
    """Completions become very short, and the reward does not rise."""
    change = history.change("completions/mean_length")
    if change is None or change[0] < SHORT or change[1] > COLLAPSED * change[0] or _pays(history):
        return None
    return Finding(
        "length_collapsed",
        ALARM,
        f"completions fell from {change[0]:.1f} to {change[1]:.1f} tokens in {history.span(WINDOW)} "
        "iterations, and the reward did not rise",
        "ending at once is what the policy has found: does the reward pay for short or empty answers "
        "(python -m rewards.check)? A KL to the reference (agent.kl_coef) or a lower learning rate holds it back",
        change[0] / max(change[1], 1.0),
    )


def length_exploded(history: History) -> Finding | None:
    """Completions become ever longer, and the reward does not rise."""
    change = history.change("completions/mean_length")
    if change is None or change[1] < EXPLODED * change[0] or _pays(history):
        return None
    return Finding(
        "length_exploded",
        ALARM,
        f"completions grew from {change[0]:.1f} to {change[1]:.1f} tokens in {history.span(WINDOW)} "
        "iterations, and the reward did not rise",
        "longer answers are not better ones here: agent.optim.aggregation=constant gives length no advantage, "
        "reward=soft_overlong charges for it, agent.kl_coef holds the policy back",
        change[1] / max(change[0], 1.0),
    )


def _pays(history: History) -> bool:
    reward = history.change("reward/mean")
    return reward is not None and reward_rises(history, *reward)
