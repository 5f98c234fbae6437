"""Rules about what is examined beside what is rewarded: held-out accuracy, and parts of the reward with weight 0."""

from __future__ import annotations

import math
from statistics import fmean

from agents.doctor.finding import ALARM, NOTE, Finding
from agents.doctor.history import LEAST, WINDOW, History, mastered, reward_rises

NOT_YET = "partial credit rises first; if this stays so, what is rewarded is not what is examined"
FELL_LEAST = 0.05
"""Five points of accuracy are a loss that a person would mind."""
FEW_EXAMINATIONS = 5
"""Examinations that must agree before the accuracy counts as standing still."""
STILL = 0.02
"""What an accuracy that stands still may move by, at the least."""


def over_optimized(history: History) -> Finding | None:
    """The reward rises while held-out accuracy falls (Gao et al., arXiv 2210.10760)."""
    examined = history.points("eval/accuracy")
    if len(examined) < 3:
        return None
    best_at, best = max(examined, key=lambda point: point[1])
    now = examined[-1][1]
    error = standard_error((best + now) / 2, history.setting.num_problems)
    then, reward = history.around("reward/mean", best_at), history.mean("reward/mean", LEAST)
    if best - now <= max(FELL_LEAST, 2 * error) or not reward_rises(history, then, reward):
        return None
    return Finding(
        "over_optimized",
        ALARM,
        f"the reward rises ({then:.3g} to {reward:.3g}) while held-out accuracy falls ({best:.2f} at iteration "
        f"{best_at}, {now:.2f} now): the reward is optimized past what it stands for",
        "take the policy of then (checkpoint=best); hold it back with agent.kl_coef, or mend the reward",
        best - now,
    )


def watched_falls(history: History) -> Finding | None:
    """The reward rises while a part that is only watched (weight 0) falls."""
    for name in history.setting.watched:
        points = history.points(f"rewards/{name}/mean")
        spread = history.mean(f"rewards/{name}/std")
        if len(points) < 2 * LEAST or spread is None:
            continue
        smooth = [
            (at, fmean([y for _, y in points[max(0, i - LEAST + 1) : i + 1]])) for i, (at, _) in enumerate(points)
        ]
        best_at, best = max(smooth[LEAST - 1 :], key=lambda point: point[1])
        now = smooth[-1][1]
        then, reward = history.around("reward/mean", best_at), history.mean("reward/mean", LEAST)
        if best - now > spread and reward_rises(history, then, reward):
            return Finding(
                "watched_falls",
                ALARM,
                f"the reward rises ({then:.3g} to {reward:.3g}) while {name!r}, which is only watched, falls "
                f"({best:.3g} at "
                f"iteration {best_at}, {now:.3g} now): the reward is optimized past what it stands for",
                "raise agent.kl_coef, stop earlier, or train the reward model on what the policy writes now",
                best - now,
            )
    return None


def held_out_still(history: History) -> Finding | None:
    """Held-out accuracy does not move."""
    examined = history.points("eval/accuracy")
    if len(examined) < FEW_EXAMINATIONS or examined[-1][0] - examined[0][0] < WINDOW or mastered(history):
        return None
    accuracies = [accuracy for _, accuracy in examined]
    half = len(accuracies) // 2
    early, late = fmean(accuracies[:half]), fmean(accuracies[-half:])
    error = standard_error((early + late) / 2, history.setting.num_problems)
    moved = max(accuracies) - min(accuracies) > max(2 * STILL, 2 * error)
    if moved or abs(late - early) > max(STILL, error):
        return None
    then, reward = history.around("reward/mean", 0), history.mean("reward/mean", LEAST)
    rises = reward_rises(history, then, reward)
    if rises and max(accuracies) <= STILL:
        says = f"held-out accuracy is still {max(accuracies):.2f} while the reward rises ({then:.3g} to {reward:.3g})"
        return Finding("held_out_still", NOTE, says, f"{NOT_YET} (evaluation.correct_at)")
    if rises:
        advice = (
            f"the reward rises meanwhile ({then:.3g} to {reward:.3g}): what is rewarded is not what is examined "
            "(evaluation.correct_at), or the training problems are learned by heart"
        )
    else:
        advice = f"nor does the reward rise: raise {history.setting.step_setting}, or see what else is found here"
    return Finding(
        "held_out_still",
        ALARM,
        f"held-out accuracy has not moved in {len(accuracies)} examinations ({min(accuracies):.2f} to "
        f"{max(accuracies):.2f})",
        advice,
    )


def standard_error(share: float, num_problems: int | None) -> float:
    """Of a share seen on that many problems; 0 where their number is not known.

    >>> standard_error(0.5, 100)
    0.05
    """
    return math.sqrt(share * (1 - share) / num_problems) if num_problems else 0.0
