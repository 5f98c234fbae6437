"""Rules about the reward: whether it tells completions apart at all, and whether it could be computed."""

from __future__ import annotations

from agents.doctor.finding import ALARM, NOTE, Finding
from agents.doctor.history import LEAST, RECENT, History, mastered, success_rate

MANY_ALIKE = 0.5
"""Half of the sampling is then spent on groups that teach nothing."""
LARGEST_GROUP = 64
"""Beyond this a larger group is no advice any more."""
FEW_INVALID = 0.02
"""A grader that fails once in fifty times is broken, not unlucky."""
FEW_TIMEOUTS = 0.01
"""The same for its time limit; each costs the run that many seconds."""
SOLVED = 0.95
"""Nearly every completion is right."""


def nothing_scored(history: History) -> Finding | None:
    """No completion of the last iterations was worth anything."""
    means, stds = history.recent("reward/mean"), history.recent("reward/std")
    if len(means) < LEAST or any(means) or any(stds):
        return None
    return Finding(
        "nothing_scored",
        ALARM,
        f"no completion of the last {len(means)} iterations scored anything: every reward is 0",
        "read some (python -m agents.view run=...): a format that is never met, an answer that is not found "
        "in the text (python -m rewards.check), or a task that is too hard; partial credit gives a first step",
    )


def constant_reward(history: History) -> Finding | None:
    """Every completion is worth the same, and not 0."""
    means, stds = history.recent("reward/mean"), history.recent("reward/std")
    if len(means) < LEAST or any(stds) or not all(means) or len(set(means)) > 1 or mastered(history):
        return None
    return Finding(
        "constant_reward",
        ALARM,
        f"every completion of the last {len(means)} iterations was worth the same, {means[-1]:g}: nothing "
        "can be learned",
        "look at the reward with python -m rewards.check; if the policy always writes the same, see the entropy",
    )


def groups_alike(history: History) -> Finding | None:
    """Most groups have no variance, whether they are kept or, by dynamic sampling, replaced. A note where most
    completions are right: then most of these groups are problems that have been learned."""
    dropped, size = history.mean("groups/dropped_share"), history.setting.group_size
    share = history.mean("groups/zero_variance_share") if dropped is None else dropped
    if share is None or share < MANY_ALIKE or not history.setting.compares_groups:
        return None
    if not any(history.recent("reward/std")) or mastered(history):
        return None
    replaced = " and are replaced" if dropped is not None else ""
    says = f"{share:.0%} of the groups have no variance{replaced}: all completions of a prompt are worth the same"
    rate = success_rate(history)
    level = NOTE if rate is not None and rate > 0.5 else ALARM
    return Finding("groups_alike", level, says, larger_groups(rate, size), share)


def larger_groups(rate: float | None, size: int | None) -> str:
    """What to do about groups that do not vary, at a success rate and a group size.

    >>> larger_groups(None, 6)
    'raise agent.group_size, or change the task'
    """
    if rate is None or size is None or not 0 < rate < 1:
        return "raise agent.group_size, or change the task"
    needed = group_size_for(rate)
    measured = f"the measured success rate of {rate:.2g}"
    if needed > LARGEST_GROUP:
        rare = "successes" if rate < 0.5 else "failures"
        return (
            f"{rare} are so rare that at {measured} only groups of {needed} would vary half of the time: "
            "change the task (easier or harder problems, partial credit)"
        )
    if needed > size:
        return (
            f"raise agent.group_size from {size} to {needed} (at {measured} half of the groups vary then), "
            "or change the task"
        )
    return (
        f"the problems differ: at {measured} {varied_share(rate, size):.0%} of groups of {size} would vary, were "
        "they equally hard, so some are always solved and others never: leave those out, or sample again where a group "
        "is alike (agent.resample_rounds)"
    )


def varied_share(rate: float, size: int) -> float:
    """The share of groups in which not all succeed and not all fail: 1 - p^G - (1 - p)^G.

    >>> varied_share(0.5, 2)
    0.5
    """
    return 1 - rate**size - (1 - rate) ** size


def group_size_for(rate: float, share: float = 0.5) -> int:
    """The smallest group size at which at least `share` of the groups vary, for a success rate in (0, 1).

    >>> group_size_for(0.5), group_size_for(0.18), group_size_for(0.01)
    (2, 4, 69)
    """
    size = 2
    while varied_share(rate, size) < share:
        size += 1
    return size


def solved(history: History) -> Finding | None:
    """Hardly anything is left to learn."""
    rate = success_rate(history)
    if rate is None or rate < SOLVED:
        return None
    return Finding(
        "solved",
        NOTE,
        f"{rate:.1%} of the completions are right: hardly anything is left to learn here",
        "stop, or go on with a harder task",
    )


def ungraded(history: History) -> Finding | None:
    """Graders fail."""
    share = history.mean("reward/invalid_share")
    if share is None or share <= FEW_INVALID:
        return None
    limit = history.setting.max_invalid_share
    ends = "" if limit is None else f"; the run ends at {limit:.0%} (env.max_invalid_share)"
    return Finding(
        "ungraded",
        ALARM,
        f"{share:.0%} of the completions could not be graded and are left out{ends}",
        "the reasons are in completions.jsonl; try the reward on them: "
        "python -m rewards.check reward=... data=.../completions.jsonl",
        share,
    )


def grader_timeouts(history: History) -> Finding | None:
    """A part of the reward runs into its time limit."""
    worst, share = "", 0.0
    recent = history.records[-RECENT:]
    for key in {key for record in recent for key in record if key.startswith("scoring/") and key.endswith("/timeouts")}:
        calls = sum(record.get(key.removesuffix("timeouts") + "calls", 0.0) for record in recent)
        here = sum(record.get(key, 0.0) for record in recent) / max(calls, 1.0)
        if here > share:
            worst, share = key.split("/")[1], here
    if share <= FEW_TIMEOUTS:
        return None
    limit = history.setting.timeout_seconds
    each = "" if limit is None else f" of {limit:g} s"
    return Finding(
        "grader_timeouts",
        ALARM,
        f"the reward's part {worst!r} ran into its time limit{each} in {share:.0%} of its calls",
        f"make it faster, or raise env.timeout_seconds or reward.{worst}.timeout_seconds",
        share,
    )
