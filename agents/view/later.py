"""What the policy of a checkpoint makes of tokens that another one chose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from agents.rollout import Rollout
from agents.saved import load_policy, open_run


@dataclass(frozen=True, slots=True)
class Later:
    """The policy of a checkpoint."""

    iteration: int
    logprob: Callable[[Rollout], Tensor]
    """(N, A) of a rollout's tokens."""


def later_policy(run: str, checkpoint: str, num_actions: int) -> Later:
    """Of `last`, `best` or an iteration. Raises `ValueError` where that checkpoint is not there or not intact."""
    saved = open_run(run, checkpoint)
    policy = load_policy(saved.config.policy, num_actions, weights=saved.weights, seed=saved.config.seed)
    tokens = saved.config.agent.optim.microbatch_tokens
    return Later(saved.iteration, lambda rollout: policy.score(rollout, microbatch_tokens=tokens).logprob)
