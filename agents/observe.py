"""What an iteration's rollout looks like in numbers, over valid rows only, under the field's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from agents.any_text import json_line
from agents.collect import Collected
from agents.losses import masked_mean
from textenv import FinishReason
from textenv.ended import Ended


def rollout_metrics(collected: Collected) -> dict[str, float]:
    """Rewards, lengths, finish reasons and entropy of a rollout."""
    rollout = collected.rollout
    valid = rollout.valid
    metrics = {"reward/invalid_share": 1.0 - float(valid.float().mean())}
    if not valid.any():
        return metrics
    returns, length = rollout.returns[valid], rollout.response_length[valid].float()
    metrics |= {"reward/mean": float(returns.mean()), "reward/std": float(returns.std(correction=0))}
    metrics |= part_metrics([ended for ended, ok in zip(collected.ended, valid.tolist(), strict=True) if ok])
    metrics |= {
        "completions/mean_length": float(length.mean()),
        "completions/min_length": float(length.min()),
        "completions/max_length": float(length.max()),
        # Without the entropies themselves, what was drawn estimates them without bias: H = E[-log p].
        "entropy": float(
            masked_mean(-rollout.sampled_logprob if rollout.entropy is None else rollout.entropy, rollout.trainable)
        ),
    }
    reasons = rollout.finish_reason[valid]
    for reason in FinishReason:
        if reason is not FinishReason.RUNNING:
            metrics[f"finish/{reason.name.lower()}"] = float((reasons == reason).float().mean())
    return metrics | {"completions/clipped_ratio": metrics["finish/budget"] + metrics["finish/context"]}


def part_metrics(ended: list[Ended]) -> dict[str, float]:
    """`rewards/<name>/mean` and `std` of each part, and the means of the numbers that rewards report themselves."""
    values: dict[str, list[float]] = {}
    reported: dict[str, list[float]] = {}
    for episode in ended:
        for name, score in episode.verdict.parts.items():
            values.setdefault(name, []).append(float(score))
            for metric, number in score.metrics.items():
                reported.setdefault(f"rewards/{name}/{metric}", []).append(float(number))
    out = {f"rewards/{name}/mean": float(np.mean(x)) for name, x in values.items()}
    out |= {f"rewards/{name}/std": float(np.std(x)) for name, x in values.items()}
    return out | {name: float(np.mean(x)) for name, x in reported.items()}


def completion_lines(iteration: int, collected: Collected) -> Iterable[str]:
    """One JSON object a completion: what was asked, what was written, what it was worth and why."""
    rollout = collected.rollout
    for row, ended in enumerate(collected.ended):
        verdict = ended.verdict
        record: dict[str, Any] = {
            "iteration": iteration,
            "problem": int(rollout.problem[row]),
            "episode": int(rollout.episode[row]),
            "prompt": ended.sample.prompt,
            "completion": ended.sample.completion,
            "finish_reason": ended.sample.finish_reason,
            "reward": float(rollout.returns[row]),
            "valid": verdict.valid,
            "parts": {name: float(score) for name, score in verdict.parts.items()},
            "reason": verdict.reason,
        }
        yield json_line(record)
