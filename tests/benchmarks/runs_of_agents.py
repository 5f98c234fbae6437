"""Runs that never ran: what is kept of them, for the statistics, the tables and the report."""

import numpy as np

from benchmarks.contenders import Contender
from benchmarks.contest_results import results_of
from benchmarks.run_result import RunResult

ABOUT = {
    "date": "today",
    "command": "python -m benchmarks.ppo_vs_grpo",
    "machine": {"processor": "P", "cores": 2, "memory_gb": 8, "torch": "2", "accelerator": None},
    "code": {"commit": "abc", "changed_files": 0},
    "idle_memory_gb": 0.4,
}


def run_result(name="ppo", seed=0, accuracies=(0.2, 0.6, 1.0), *, correct=None, num_correct=None, seconds=10.0, **more):
    """100 tokens and `seconds` between evaluations, 10 problems with 4 samples each; as right at the end as the curve
    says unless `correct` is given."""
    right = [int(i < round(10 * accuracies[-1])) for i in range(10)] if correct is None else correct
    curve = [{"num_tokens": 0.0, "time/train_seconds": 0.0, "eval/accuracy": 0.0}]
    curve += [
        {
            "num_tokens": 100.0 * i,
            "time/train_seconds": seconds * i,
            "eval/accuracy": accuracy,
            "reward/mean": accuracy / 2,
        }
        for i, accuracy in enumerate(accuracies, start=1)
    ]
    fields = {
        "settings": "same",
        "command": f"python -m agents.train agent={name} seed={seed}",
        "measured": {"date": "today", "machine": {}, "code": {"commit": "abc"}},
        "task": "digits",
        "model": "tiny",
        "device": "cpu",
        "precision": "float32",
        "before": {"eval/accuracy": 0.0},
        "samples": 4,
        "tokens": 100 * len(accuracies),
        "seconds": seconds * len(accuracies),
        "process_seconds": 42.0,
        "collect_seconds": 3.0,
        "update_seconds": 1.0,
        "iterations": len(accuracies),
        "optimizer_steps": 4.0,
        "peak_memory_gb": 0.5,
        "models_held": 1,
        "critic": "none",
    }
    sampled = [4 * x for x in right] if num_correct is None else num_correct
    return RunResult(name, seed, correct=right, num_correct=sampled, curve=curve, **fields | more)


def contender(name, **outside):
    """One whose settings nobody composed."""
    return Contender(name, "grpo", (f"agent={name}",), (), {"agent": {"name": name, "clip_low": 0.2}, **outside})


def noisy(name, share, *, seeds=5, num_problems=60, seed=0, slow=1.0):
    """Runs that get each problem right with the same probability."""
    generator = np.random.default_rng([seed, len(name)])
    runs = []
    for s in range(seeds):
        right = (generator.random(num_problems) < share).astype(int).tolist()
        sampled = generator.binomial(4, share, num_problems).tolist()
        runs.append(
            run_result(
                name, s, (share / 2, sum(right) / num_problems), correct=right, num_correct=sampled, seconds=slow
            )
        )
    return runs


def results(runs, names, failures=(), *, contenders=None, **settings):
    """What `results.json` would hold."""
    found = contenders or [contender(name) for name in names]
    numbers = results_of(
        runs, failures, found, **{"tokens": 200, "target": 0.9, "level": 0.95, "draws": 500} | settings
    )
    return {**ABOUT, **numbers}
