"""The numbers of a comparison of agents: what `results.json` holds, and every table and picture is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.bootstrap import bounded, estimate
from benchmarks.contenders import Contender, unequal
from benchmarks.run_result import RunResult, greedy_by_problem, ks, pass_at_by_problem, unpaired
from benchmarks.verdicts import compare_all

SHARES = (0.25, 0.5, 0.75)
"""Of the tokens, where accuracies are compared besides at the end."""
BY_PROBLEM = ("correct", "num_correct", "settings")
"""What only `runs/` holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A run that broke off."""

    name: str
    seed: int
    reason: str


def results_of(
    runs: Sequence[RunResult],
    failures: Sequence[Failure],
    found: Sequence[Contender],
    *,
    tokens: int,
    target: float,
    level: float,
    draws: int,
) -> dict[str, Any]:
    """About each agent, each pair and each run. Raises `RuntimeError` when no run is there."""
    if not runs:
        raise RuntimeError(f"no run came to its end; the first that failed: {failures[0].reason}")
    by_name = {one.name: [run for run in runs if run.name == one.name] for one in found}
    there = [one for one in found if by_name[one.name]]
    first = runs[0]
    comparisons = compare_all(runs, [one.name for one in there], target=target, level=level, draws=draws)
    return {
        "task": first.task,
        "model": first.model,
        "device": first.device,
        "precision": first.precision,
        "num_problems": len(first.correct),
        "samples": first.samples,
        "tokens": tokens,
        "target_accuracy": target,
        "level": level,
        "draws": draws,
        "seeds": sorted({run.seed for run in runs}),
        "agents": {
            one.name: agent_results(by_name[one.name], one, tokens=tokens, target=target, level=level, draws=draws)
            for one in there
        },
        "comparisons": [comparison.record() for comparison in comparisons],
        "failures": [dataclasses.asdict(failure) for failure in failures],
        "unequal_settings": unequal(found),
        "unpaired_seeds": unpaired(runs),
        "runs": [run_record(run, target) for run in runs],
    }


def agent_results(
    runs: Sequence[RunResult], one: Contender, *, tokens: int, target: float, level: float, draws: int
) -> dict[str, Any]:
    """Numbers of one agent, each with all its seeds."""
    reached = [run.reach(target) for run in runs]
    by_share = {f"{share:g}": spread([run.at("eval/accuracy", share * tokens) for run in runs]) for share in SHARES}
    return {
        "algorithm": one.algorithm,
        "choice": list(one.choice),
        "settings": dict(one.settings["agent"]),
        "seeds": [run.seed for run in runs],
        "accuracy": by_share | {"1": spread([run.accuracy for run in runs])},
        "accuracy_interval": share_of(greedy_by_problem(runs), level, draws),
        "pass_at": {str(k): share_of(pass_at_by_problem(runs, k), level, draws) for k in ks(runs)},
        "reward": spread([run.curve[-1]["reward/mean"] for run in runs]),
        "to_target": {
            "tokens": [r.tokens for r in reached],
            "seconds": [r.seconds for r in reached],
            "censored": [r.censored for r in reached],
        },
        **{
            name: spread([getattr(run, name) for run in runs])
            for name in (
                "tokens",
                "seconds",
                "process_seconds",
                "collect_seconds",
                "update_seconds",
                "optimizer_steps",
                "iterations",
                "peak_memory_gb",
            )
        },
        "models_held": runs[0].models_held,
        "critic": runs[0].critic,
    }


def share_of(values: Float[np.ndarray, "S M"], level: float, draws: int) -> dict[str, float | None]:
    """A mean of shares with its interval over seeds and problems, which ends at 0 and 1."""
    e = bounded(estimate(values, level=level, draws=draws), 0.0, 1.0, level=level)
    return {"mean": e.mean, "low": e.low, "high": e.high}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """All values in the order of the seeds, mean and range.

    >>> spread([1.0, 2.0])
    {'mean': 1.5, 'min': 1.0, 'max': 2.0, 'seeds': [1.0, 2.0]}
    """
    return {"mean": mean(values), "min": min(values), "max": max(values), "seeds": list(values)}


def run_record(run: RunResult, target: float) -> dict[str, Any]:
    """One run: how to repeat it, and its curve."""
    record: Mapping[str, Any] = dataclasses.asdict(run)
    kept = {name: value for name, value in record.items() if name not in BY_PROBLEM}
    return {**kept, "accuracy": run.accuracy, "reached": dataclasses.asdict(run.reach(target))}
