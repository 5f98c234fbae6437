"""Accuracy on held-out problems, by the same `collect` that training uses; unbiased pass@k.

    python -m agents.evaluate run=runs/<name>            the policy of a run, on its own test split
    python -m agents.evaluate task=sums20 policy.model=smollm2 samples=8
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field

import numpy as np
import torch

from agents.collect import Collected, collect
from agents.policy import Policy, Sampling
from textenv import TextVectorEnv

GREEDY = Sampling(temperature=0)


@dataclass(frozen=True, slots=True)
class Examination:
    """What an evaluation found."""

    accuracy: float
    """Share of problems answered correctly by the greedy completion."""
    mean_length: float
    """Policy tokens of the greedy completions."""
    greedy: Collected
    sampled_accuracy: float | None = None
    """Share of sampled completions that are correct."""
    pass_at: dict[int, float] = field(default_factory=dict)
    """k -> unbiased pass@k."""

    def metrics(self) -> dict[str, float]:
        """For the logs: `eval/...`."""
        out = {"eval/accuracy": self.accuracy, "eval/mean_length": self.mean_length}
        if self.sampled_accuracy is not None:
            out["eval/sampled_accuracy"] = self.sampled_accuracy
        return out | {f"eval/pass@{k}": value for k, value in self.pass_at.items()}


def examine(
    env: TextVectorEnv,
    policy: Policy,
    *,
    num_problems: int,
    samples: int = 0,
    correct_at: float = 1.0,
    max_tokens: int = 32,
) -> Examination:
    """Greedy accuracy on the first `num_problems` of the environment's split, and of `samples` draws a problem.

    Samples are keyed by episode numbers of their own, so that they repeat neither training's draws nor each other.
    """
    num_problems = min(num_problems, env.num_problems)
    problems = np.arange(num_problems)
    greedy = collect(env, policy, problems, sampling=GREEDY, max_tokens=max_tokens)
    correct = verdicts(greedy, correct_at)
    lengths = greedy.rollout.response_length.float()
    if not samples:
        return Examination(float(correct.mean()), float(lengths.mean()), greedy)
    hits = np.zeros(num_problems, np.int64)
    for round_ in range(samples):
        first = -(round_ + 1) * num_problems  # below every episode of training
        drawn = collect(env, policy, problems, first_episode=first, max_tokens=max_tokens)
        hits += verdicts(drawn, correct_at)
    pass_at = {k: float(np.mean([pass_at_k(samples, int(c), k) for c in hits])) for k in powers_of_two(samples)}
    return Examination(
        float(correct.mean()), float(lengths.mean()), greedy, float(hits.sum() / (samples * num_problems)), pass_at
    )


def verdicts(collected: Collected, correct_at: float) -> np.ndarray:
    """Which episodes were right; one that could not be graded counts as wrong."""
    rollout = collected.rollout
    return (rollout.valid & (rollout.returns >= correct_at - 1e-6)).numpy()


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The probability that at least one of `k` draws without replacement from `samples` is among the `correct`.

    Unbiased; arXiv 2107.03374, equation 1. Raises `ValueError` unless 1 <= k <= samples and 0 <= correct <= samples.

    >>> pass_at_k(4, 1, 4), pass_at_k(4, 1, 1)
    (1.0, 0.25)
    """
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise ValueError(f"pass@k needs 1 <= k <= samples and 0 <= correct <= samples, got {k=}, {samples=}, {correct=}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`.

    >>> powers_of_two(6)
    [1, 2, 4]
    """
    return [2**i for i in range(most.bit_length()) if 2**i <= most]
