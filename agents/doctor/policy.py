"""Rules about the policy: how sure it is, how far it went, and whether acting and training mean the same policy."""

from __future__ import annotations

from statistics import fmean

from agents.doctor.finding import ALARM, NOTE, Finding
from agents.doctor.history import ENDS, LEAST, RECENT, WINDOW, History, mastered

ENTROPY_LEFT = 0.1
"""Share of the entropy that is left after a collapse."""
SURE = 0.05
"""Nats a token; a policy that begins as sure as that has nothing to lose."""
FAR = 0.5
"""Nats a token from the reference: it gives a completion of 20 tokens e^-10 of its probability, and says nothing any
more about what the policy writes."""
RISING = 1.5
"""Growth of the KL over the iterations before; what stands still is held by its penalty."""
NOWHERE_REFERENCE, NOWHERE_OLD = 1e-4, 1e-6
"""Nats a token from the reference after all iterations, from the old policy in one update: less is nothing."""
NEARLY_DECAYED = 0.2
"""Share of the highest learning rate below which updates are small because they are meant to be."""
SMALL_LOSS = 0.05
CLOSE = 0.5
"""Share of the limit at which the difference of sampler and update is worth a word."""


def entropy_fell(history: History) -> Finding | None:
    """The policy has become sure at once, without being right."""
    change = history.change("entropy")
    if change is None or change[0] < SURE or change[1] > ENTROPY_LEFT * change[0] or mastered(history):
        return None
    return Finding(
        "entropy_fell",
        ALARM,
        f"entropy fell {1 - change[1] / change[0]:.0%} in {history.span(WINDOW)} iterations ({change[0]:.2g} to "
        f"{change[1]:.2g} nats a token): the policy hardly tries anything new",
        f"lower {history.setting.step_setting}, or hold the entropy up with agent.kl_coef or, where the agent has it, "
        "agent.entropy_coef or a larger agent.clip_high",
    )


def hardly_moved(history: History) -> Finding | None:
    """The policy is where it was. A learning rate that has come to its end as it should is no reason to speak."""
    rate = history.mean("learning_rate")
    if rate is None or history.span(RECENT) < RECENT or _no_signal(history):
        return None
    if _iterations(history) < history.setting.critic_warmup + RECENT:
        return None
    if 0 < rate < NEARLY_DECAYED * max(number for _, number in history.points("learning_rate")):
        return None
    reference, old, steps = (history.mean(name) for name in ("kl", "approx_kl", "optimizer_steps"))
    if history.setting.reference_every is not None:
        reference = None  # it was the policy itself a moment ago
    if rate <= 0:
        says = f"the learning rate was {rate:g} in the last {RECENT} iterations: nothing is learned"
    elif reference is not None and 0 <= reference < NOWHERE_REFERENCE:
        says = (
            f"the policy is {reference:.1e} nats a token from where it began, after {_iterations(history)} iterations"
        )
    elif old is not None and steps is not None and steps > 1 and abs(old) < NOWHERE_OLD:
        says = f"an update moves the policy by {old:.1e} nats a token"
    else:
        return None
    return Finding("hardly_moved", ALARM, says, f"raise agent.optim.learning_rate (now {rate:.2g})")


def _no_signal(history: History) -> bool:
    """Whether the reward itself leaves nothing to move for: other rules speak of that."""
    alike = history.mean("groups/zero_variance_share") if history.setting.compares_groups else None
    return not any(history.recent("reward/std")) or (alike is not None and alike > 0.9)


def _iterations(history: History) -> int:
    return int(history.records[-1]["iteration"])


def kl_runs_away(history: History) -> Finding | None:
    """The policy leaves the reference far behind, faster and faster."""
    numbers = history.recent("kl", RECENT + ENDS)
    if len(numbers) < LEAST + ENDS:
        return None
    before, now = fmean(numbers[:-ENDS]), fmean(numbers[-ENDS:])
    if now < FAR or now < RISING * before:
        return None
    return Finding(
        "kl_runs_away",
        ALARM,
        f"the KL to the reference runs away: {now:.2f} nats a token, {before:.2f} in the iterations before",
        f"raise agent.kl_coef (PPO: or let agent.kl_controller adapt it), or lower {history.setting.step_setting}",
        now,
    )


def sampler_mismatch(history: History) -> Finding | None:
    """The sampler's log-probabilities are nearly too far from the update's."""
    difference, limit = history.mean("sampling/logprob_difference/mean"), history.setting.mismatch_limit
    if difference is None or limit is None or difference < CLOSE * limit:
        return None
    return Finding(
        "sampler_mismatch",
        ALARM,
        f"the sampler's log-probabilities differ from the update's by {difference:.2g} nats a token; the run "
        f"refuses to go on at {limit:g}",
        "policy.precision=float32, or agent.sampler_correction=2",
        difference,
    )


def loss_is_zero(history: History) -> Finding | None:
    """An explanation: with one step per rollout the loss is no measure of anything."""
    loss, ratio, steps = (history.mean(name) for name in ("policy_loss", "ratio/mean", "optimizer_steps"))
    if loss is None or ratio is None or steps is None or abs(loss) > SMALL_LOSS:
        return None
    if steps > 1 or abs(ratio - 1) > 1e-6:
        return None
    return Finding(
        "loss_is_zero",
        NOTE,
        f"the loss is about 0 ({loss:.2g}) because the ratio is 1 and the advantages are centred: only its "
        "gradient means something",
        "watch the reward and the held-out accuracy",
    )
