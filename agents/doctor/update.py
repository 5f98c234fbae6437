"""Rules about the update: how much of it is clipped, ended early, or longer than the old policy vouches for."""

from __future__ import annotations

from statistics import fmean, median

from agents.doctor.finding import ALARM, NOTE, Finding
from agents.doctor.history import LEAST, RECENT, WINDOW, History

MANY_CLIPPED = 0.3
"""Share of the tokens that then have no gradient; 0.05 to 0.2 is usual where several epochs are taken."""
LONG = 0.1
"""Nats a token from the old policy, several times the targets of 0.01 to 0.02 that people set."""
MOSTLY = 0.8
REFUSED_HALF = 0.5
"""Every second rollout is then generated and thrown away."""
NEARLY_ALWAYS = 0.9
MUCH = 10.0
"""Times the limit: what is left of such a gradient is its direction."""


def loss_not_finite(history: History) -> Finding | None:
    """The run ended in the iteration after the last that is known, and was not resumed past it."""
    at = history.setting.failed_at
    if at is None or not history.records or at != int(history.records[-1]["iteration"]) + 1:
        return None
    return Finding(
        "loss_not_finite",
        ALARM,
        f"a loss or a gradient of iteration {at} was not finite, and the run ended there",
        f"look at what it came of (python -m agents.view run=.../failure); lower {history.setting.step_setting}, or "
        "bound what is rewarded (PPO: agent.reward_clip)",
    )


def clip_share_high(history: History) -> Finding | None:
    """Many tokens are clipped."""
    share = history.mean("clip_ratio")
    if share is None or share <= MANY_CLIPPED:
        return None
    return Finding(
        "clip_share_high",
        ALARM,
        f"{share:.0%} of the tokens are clipped and teach nothing in that pass",
        "lower agent.optim.learning_rate or agent.optim.epochs, or take larger minibatches "
        "(agent.optim.minibatch_rows)",
        share,
    )


def steps_long(history: History) -> Finding | None:
    """An update goes further than the rollout vouches for."""
    kl = history.mean("approx_kl")
    if kl is None or kl <= LONG:
        return None
    fewer = "" if history.setting.natural_steps else " or agent.optim.epochs, or set agent.max_kl_old (PPO)"
    return Finding(
        "steps_long",
        ALARM,
        f"an update moves the policy by {kl:.2f} nats a token: further than its rollout says anything about",
        f"lower {history.setting.step_setting}{fewer}",
        kl,
    )


def ended_early(history: History) -> Finding | None:
    """The early stop ends nearly every update; where that is before all of the rollout was seen, it is an alarm."""
    share, steps = history.mean("early_stop"), history.recent("optimizer_steps")
    if share is None or share < MOSTLY:
        return None
    limit, epoch = history.setting.max_kl_old, history.setting.epoch_steps
    at = "" if limit is None else f" (agent.max_kl_old={limit:g})"
    seen = epoch is not None and fmean(steps) >= epoch
    unseen = "" if seen else ": not every completion has been in one"
    return Finding(
        "ended_early",
        NOTE if seen else ALARM,
        f"the early stop{at} ended {share:.0%} of the updates, after {fmean(steps):.1f} optimizer steps on average"
        f"{unseen}",
        "lower agent.optim.learning_rate, so that the epochs that are asked for are taken, or ask for fewer",
        share,
    )


def steps_refused(history: History) -> Finding | None:
    """TRPO's line search finds no step."""
    accepted = history.mean("line_search/accepted")
    if accepted is None or accepted > REFUSED_HALF or not any(history.recent("reward/std")):
        return None
    return Finding(
        "steps_refused",
        ALARM,
        f"the line search refused {1 - accepted:.0%} of the steps: the policy stays where it is",
        "shorter steps: lower agent.max_kl or raise agent.line_search_steps; a direction that can be trusted: raise "
        "agent.damping, more agent.prompts",
        1 - accepted,
    )


def gradient_clipped(history: History) -> Finding | None:
    """The gradient's norm is over its limit nearly always."""
    limit, norms = history.setting.max_grad_norm, history.recent("grad_norm", WINDOW)
    if limit is None or len(norms) < max(LEAST, RECENT) or sum(n > limit for n in norms) < NEARLY_ALWAYS * len(norms):
        return None
    middle = median(norms)
    return Finding(
        "gradient_clipped",
        ALARM if middle > MUCH * limit else NOTE,
        f"the gradient is clipped nearly always: its norm is {middle:.2g} in the middle, "
        f"agent.optim.max_grad_norm={limit:g}",
        "AdamW divides by the gradient's size anyway; if the reward is restless, raise the limit to about "
        "that norm and lower agent.optim.learning_rate",
        middle,
    )
