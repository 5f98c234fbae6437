"""Who is credited with what, where there is a critic: completions that were cut off, what is paid, advantages.

A completion is *cut off* where its token budget or the room for its text ended it (`Rollout.cut`), whatever the
environment calls that: `terminated` by default, because the budget is observed, or `truncated`. Four answers:

    bootstrap  Where the environment truncated, the critic's V of the state behind the last token is added to what was
               paid; where it terminated, nothing is. The episode could have gone on.
    terminal   Nothing is ever added: what was paid is all there is. The field's choice, by default or by oversight.
    penalty    As `terminal`, and `truncation_penalty` is taken off the reward of a cut completion's last policy token:
               the policy learns that it has to come to an end.
    mask       Cut completions are treated like those whose grader failed: they take no part in the losses, the means,
               the whitening or the metrics of the update, and nothing is learned from them, not by the critic either.
               Among what is left long completions are rarer than they are: nobody is taught to be brief.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agents.advantages import explained_variance, gae, whiten
from agents.losses import masked_mean
from agents.rollout import Rollout

TRUNCATIONS = ("bootstrap", "terminal", "penalty", "mask")
WHITENED = ("tokens", "returns")


def check_truncation(truncation: str, penalty: float | None) -> None:
    """Raise `ValueError` for settings that cannot work, with setting, rule and value."""
    if truncation not in TRUNCATIONS:
        raise ValueError(f"agent.truncation must be one of {', '.join(TRUNCATIONS)}, got {truncation!r}")
    if truncation == "penalty" and not (penalty is not None and penalty > 0):
        raise ValueError(f"agent.truncation_penalty must be positive with agent.truncation=penalty, got {penalty}")
    if truncation != "penalty" and penalty is not None:
        raise ValueError(
            f"agent.truncation_penalty must be null with agent.truncation={truncation} (only penalty pays it), "
            f"got {penalty}"
        )


def counted(rollout: Rollout, truncation: str) -> Rollout:
    """`rollout`; with `mask` its cut completions are no longer valid."""
    return rollout.with_(valid=rollout.valid & ~rollout.cut) if truncation == "mask" else rollout


def bounded(rollout: Rollout, clip: float | None) -> Rollout:
    """Every reward kept within [-clip, clip], token by token; a score is paid on one token, so it is the score that is
    clipped. None leaves them."""
    return rollout if clip is None else rollout.with_(reward=rollout.reward.clamp(-clip, clip))


def penalized(rollout: Rollout, penalty: float | None) -> Rollout:
    """`penalty` taken off the last policy token's reward of every cut completion; None takes nothing."""
    if penalty is None:
        return rollout
    off = torch.where(last_token(rollout.mask) & rollout.cut[:, None], penalty, 0.0)
    return rollout.with_(reward=rollout.reward - off)


def whitened(rollout: Rollout, over: str | None) -> Rollout:
    """Rewards on a scale of their own; None leaves them.

    - `tokens`: `(r - mean) / std + mean` over all policy tokens, the mean added back: what the field calls reward
      whitening without a shift (arXiv 1909.08593's code). A token that is paid 0 then gets `mean - mean / std`, so
      the length of a completion is paid for, too.
    - `returns`: `r / std` with the std of the completions' returns: a zero stays a zero, and nothing but the scale
      changes. Returns that are all equal leave the rewards as they are.
    """
    if over is None:
        return rollout
    mask = rollout.trainable
    if over == "tokens":
        return rollout.with_(reward=whiten(rollout.reward, mask, shift_mean=False))
    returns = rollout.returns[rollout.valid & mask.any(1)].double()
    same = returns.numel() == 0 or bool(returns.min() == returns.max())
    return rollout if same else rollout.with_(reward=rollout.reward / float(returns.std(correction=0)))


def credit(
    rollout: Rollout, *, gamma: float, lam: float, truncation: str
) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A"]]:
    """Advantages (GAE) and value targets A + V of a `counted` rollout, 0 where nothing is learned."""
    mask, value = rollout.trainable, rollout.known("value")
    bootstraps = rollout.truncated & (truncation == "bootstrap")
    final = torch.where(bootstraps, rollout.known("final_value"), 0.0)
    advantage = gae(rollout.reward, value, mask, gamma=gamma, lam=lam, final_value=final)
    return advantage, torch.where(mask, advantage + value, 0.0)


def critic_metrics(rollout: Rollout, target: Float[Tensor, "N A"]) -> dict[str, float]:
    """`value/mean` and, where it is defined, `explained_variance` of the critic that judged the rollout."""
    value, mask = rollout.known("value"), rollout.trainable
    explained = explained_variance(value, target, mask)
    metrics = {"value/mean": float(masked_mean(value, mask))}
    return metrics if explained.isnan() else metrics | {"explained_variance": float(explained)}


def last_token(mask: Bool[Tensor, "N A"]) -> Bool[Tensor, "N A"]:
    """True at the last policy token of each row; rows without one have none."""
    behind = mask.flip(1).cumsum(1).flip(1)
    return mask & (behind == 1)
