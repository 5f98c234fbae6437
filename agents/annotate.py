"""What a rollout still needs before it can be learned from: scores under the old policy, the critic, the reference.

The old policy is the one that acted. With one optimizer step per rollout it *is* the policy being updated, and its
log-probabilities come for free (the ratio is `exp(logprob - logprob.detach())`, exactly 1). With several, the sampler's
own serve in float32, where they differ by a few millionths; in bfloat16, where they differ by as much as a clip range,
one pass in the training numerics gives them.
"""

from __future__ import annotations

import torch

from agents.kl import k1, k3
from agents.losses import masked_mean
from agents.optim import OptimConfig
from agents.policy import Policy
from agents.rollout import Rollout


def several_steps(config: OptimConfig, num_rows: int) -> bool:
    """Whether an update takes more than one optimizer step."""
    return config.epochs > 1 or (config.minibatch_rows is not None and config.minibatch_rows < num_rows)


def annotate(rollout: Rollout, policy: Policy, reference: Policy | None, config: OptimConfig) -> Rollout:
    """`rollout` with `old_logprob` (where several steps need it), `value`, `final_value` and `reference_logprob`."""
    if policy.value_head is not None:
        scores = policy.score(rollout, microbatch_tokens=config.microbatch_tokens, with_final_value=True)
        rollout = rollout.with_(value=scores.value, final_value=scores.final_value, old_logprob=scores.logprob)
    elif several_steps(config, len(rollout)) and policy.model.weight.dtype == torch.float32:
        rollout = rollout.with_(old_logprob=rollout.sampled_logprob)
    elif several_steps(config, len(rollout)):
        scores = policy.score(rollout, microbatch_tokens=config.microbatch_tokens)
        rollout = rollout.with_(old_logprob=scores.logprob)
    if reference is not None:
        scores = reference.score(rollout, microbatch_tokens=config.microbatch_tokens)
        rollout = rollout.with_(reference_logprob=scores.logprob)
    return rollout


def kl_metrics(rollout: Rollout) -> dict[str, float]:
    """`kl`: nats per token from the reference (k3, never negative); `kl/row`: nats per episode (k1)."""
    if rollout.reference_logprob is None:
        return {}
    mask = rollout.trainable
    acted = rollout.sampled_logprob if rollout.old_logprob is None else rollout.old_logprob
    per_row = torch.where(mask, k1(acted, rollout.reference_logprob), 0.0).sum(1)[rollout.valid]
    return {
        "kl": float(masked_mean(k3(acted, rollout.reference_logprob), mask)),
        "kl/row": float(per_row.mean()) if len(per_row) else 0.0,
    }
