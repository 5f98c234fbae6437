"""What a rollout still needs before it can be learned from: scores under the old policy, the critic, the reference.

The old policy is the one that acted. With one optimizer step per rollout it *is* the policy being updated, and its
log-probabilities come for free (the ratio is `exp(logprob - logprob.detach())`, exactly 1). With several, the sampler's
own serve in float32, where they differ by a few millionths; in bfloat16, where they differ by as much as a clip range,
one pass in the training numerics gives them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.kl import k1, k3, shaped_reward
from agents.losses import masked_mean
from agents.optim import OptimConfig
from agents.policy import Policy
from agents.rollout import Rollout


def several_steps(config: OptimConfig, problem: Int[Tensor, "N"]) -> bool:
    """Whether an update may take more than one optimizer step. Groups stay together, so there is a second one where all
    but the smallest have a minibatch's rows."""
    if config.epochs > 1 or config.minibatch_rows is None:
        return config.epochs > 1
    sizes = problem.unique(return_counts=True)[1]
    return int(sizes.sum() - sizes.min()) >= config.minibatch_rows


def annotate(
    rollout: Rollout, policy: Policy, reference: Policy | None, config: OptimConfig, *, exact_kl: bool = False
) -> Rollout:
    """`rollout` with `old_logprob` (where several steps need it), `value`, `final_value`, `reference_logprob`, and with
    `exact_kl`, where there is a reference, the `reference_kl`."""
    exact_kl = exact_kl and reference is not None
    several, size = several_steps(config, rollout.problem), config.microbatch_tokens
    exact = policy.model.weight.dtype != torch.bfloat16
    if policy.value_head is not None or exact_kl or (several and not exact):
        has_critic = policy.value_head is not None
        kl_to = reference if exact_kl else None
        scores = policy.score(rollout, microbatch_tokens=size, with_final_value=has_critic, kl_to=kl_to)
        rollout = rollout.with_(value=scores.value, final_value=scores.final_value, reference_kl=scores.kl)
        if several or has_critic:
            rollout = rollout.with_(old_logprob=scores.logprob)
    elif several:
        rollout = rollout.with_(old_logprob=rollout.sampled_logprob)
    if reference is not None:
        scores = reference.score(rollout, microbatch_tokens=size)
        rollout = rollout.with_(reference_logprob=scores.logprob)
    return rollout


def acted_logprob(rollout: Rollout) -> Float[Tensor, "N A"]:
    """Log-probabilities of the policy that acted, as training computes them where that has been done."""
    return rollout.sampled_logprob if rollout.old_logprob is None else rollout.old_logprob


def pay_kl(rollout: Rollout, beta: float) -> Rollout:
    """`rollout` whose rewards have the KL to the reference taken off, token by token: the exact one where it is known,
    else k1."""
    kl = rollout.reference_kl
    if kl is None:
        kl = k1(acted_logprob(rollout), rollout.known("reference_logprob"))
    return rollout.with_(reward=shaped_reward(rollout.reward, kl, rollout.mask, beta=beta))


def kl_metrics(rollout: Rollout) -> dict[str, float]:
    """`kl`: nats per token from the reference (exact where known, else k3, which is never negative); `kl/row`: nats per
    episode (else k1)."""
    if rollout.reference_logprob is None:
        return {}
    mask, acted, exact = rollout.trainable, acted_logprob(rollout), rollout.reference_kl
    per_token = k3(acted, rollout.reference_logprob) if exact is None else exact
    per_row = k1(acted, rollout.reference_logprob) if exact is None else exact
    per_row = torch.where(mask, per_row, 0.0).sum(1)[rollout.valid]
    return {
        "kl": float(masked_mean(per_token, mask)),
        "kl/row": float(per_row.mean()) if len(per_row) else 0.0,
    }
