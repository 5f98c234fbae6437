"""The rule about time."""

from __future__ import annotations

from agents.doctor.finding import ALARM, Finding
from agents.doctor.history import LEAST, History

MOST = 0.5
"""Share of an iteration: what takes more than half of it is what to make faster first."""
HIDDEN = 0.9
"""Share of collecting: deferred scoring that takes less has been done beside decoding, and nobody waited."""


def waits_for_rewards(history: History) -> Finding | None:
    """Rewards take most of the time, and not beside the decoding of other rows."""
    seconds, whole = history.recent("scoring/seconds"), history.recent("time/seconds")
    if len(seconds) < LEAST or len(seconds) != len(whole) or sum(seconds) <= MOST * sum(whole):
        return None
    deferred = history.setting.scoring == "deferred"
    if deferred and sum(seconds) <= HIDDEN * sum(history.recent("time/collect")):
        return None
    share = min(1.0, sum(seconds) / sum(whole))
    wait = "" if deferred else "env.scoring=deferred computes them while other rows decode; "
    return Finding(
        "waits_for_rewards",
        ALARM,
        f"rewards are being computed during {share:.0%} of the time ({sum(seconds) / len(seconds):.1f} s of "
        f"an iteration's {sum(whole) / len(whole):.1f} s)",
        f"{wait}more env.reward_workers, env.cache_size where the same is asked again, or a faster reward",
        share,
    )
