"""The rule about the critic."""

from __future__ import annotations

from agents.doctor.finding import ALARM, Finding
from agents.doctor.history import RECENT, History, mastered

WORSE = -0.1
"""Below 0 a constant would do better; so far below it is no accident of a batch."""


def critic_knows_nothing(history: History) -> Finding | None:
    """The critic is worse than a constant. Where nearly every return is the same there is nothing to explain."""
    explained = history.mean("explained_variance")
    if explained is None or history.span(RECENT) < RECENT or explained > WORSE or mastered(history):
        return None
    rate = history.mean("learning_rate/critic")
    now = "" if rate is None else f" (now {rate:.2g})"
    warm = "" if history.setting.natural_steps else "warm it up before the policy learns (agent.critic_warmup), "
    return Finding(
        "critic_knows_nothing",
        ALARM,
        f"the critic explains {explained:.2f} of the variance of the returns: a constant would do better",
        f"{warm}raise its learning rate{now}: agent.optim.critic_learning_rate, or give it a model of its own "
        "(agent.critic=separate)",
        1 - explained,
    )
