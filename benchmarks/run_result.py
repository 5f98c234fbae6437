"""What is kept of one run of a comparison: enough for every number, table and picture, and to go on after a crash."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from agents.checkpoint import write_atomically
from agents.evaluate import pass_at_k, powers_of_two
from benchmarks.finished_run import FinishedRun
from benchmarks.reaching import Reach, reach

CRITICS = {None: "none", "shared": "a head on the policy's hidden states", "separate": "a second model"}


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run."""

    name: str
    seed: int
    settings: str
    """A digest of everything that was asked for; a run with another one is measured anew."""
    command: str
    measured: Mapping[str, Any]
    """Date, machine and commit."""
    task: str
    model: str
    device: str
    precision: str
    before: Mapping[str, float]
    """Held-out metrics of the untrained policy: the same for all with this seed."""
    correct: Sequence[int]
    """1 for each problem that the greedy completion gets right at the end."""
    samples: int
    num_correct: Sequence[int]
    """Of the samples of each problem."""
    curve: Sequence[Mapping[str, float]]
    tokens: int
    seconds: float
    """Of training."""
    process_seconds: float
    collect_seconds: float
    update_seconds: float
    iterations: int
    optimizer_steps: float
    peak_memory_gb: float
    models_held: int
    critic: str

    @property
    def accuracy(self) -> float:
        """Greedy, at the end."""
        return float(np.mean(self.correct))

    def reach(self, target: float) -> Reach:
        """When the target was reached."""
        return reach(self.curve, target, seconds=self.seconds, tokens=self.tokens)

    def at(self, metric: str, tokens: float) -> float:
        """The curve's value at a number of tokens, between evaluations by a straight line; at its end the last one."""
        points = [(point["num_tokens"], point[metric]) for point in self.curve if metric in point]
        for (x0, y0), (x1, y1) in pairwise(points):
            if x0 <= tokens <= x1:
                return y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)
        return points[-1][1]


def result_of(run: FinishedRun, settings: str, measured: Mapping[str, Any]) -> RunResult:
    """From a run's folder."""
    summary, held_out = run.summary, run.held_out
    return RunResult(
        name=run.agent,
        seed=run.seed,
        settings=settings,
        command=run.command,
        measured=measured,
        **{name: summary[name] for name in ("task", "model", "device", "precision", "before", "tokens", "seconds")},
        correct=held_out["correct"],
        samples=held_out["samples"],
        num_correct=held_out["num_correct"],
        curve=run.curve,
        process_seconds=run.process_seconds,
        collect_seconds=run.total("time/collect"),
        update_seconds=run.total("time/update"),
        iterations=summary["iterations"],
        optimizer_steps=run.total("optimizer_steps"),
        peak_memory_gb=summary["peak_memory_gb"],
        models_held=summary["models_held"],
        critic=CRITICS.get(run.settings["agent"].get("critic"), "none"),
    )


def keep(result: RunResult, path: Path) -> None:
    """Write it at once or not at all; a list of numbers takes one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in dataclasses.asdict(result).items())
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def kept(path: Path, settings: str) -> RunResult | None:
    """A run that was measured before with the same settings; one that another version kept is measured anew."""
    if not path.is_file():
        return None
    read = json.loads(path.read_text())
    known = {field.name for field in dataclasses.fields(RunResult)}
    return RunResult(**read) if read.keys() == known and read["settings"] == settings else None


def greedy_by_problem(runs: Sequence[RunResult]) -> Float[np.ndarray, "S M"]:
    """1 where the greedy completion is right: a row a run."""
    return np.array([run.correct for run in runs], dtype=float)


def pass_at_by_problem(runs: Sequence[RunResult], k: int) -> Float[np.ndarray, "S M"]:
    """Unbiased pass@k of each problem: a row a run."""
    by_correct = np.array([pass_at_k(runs[0].samples, correct, k) for correct in range(runs[0].samples + 1)])
    return by_correct[np.array([run.num_correct for run in runs])]


def ks(runs: Sequence[RunResult]) -> list[int]:
    """For which pass@k can be said."""
    return powers_of_two(runs[0].samples)


def unpaired(runs: Sequence[RunResult]) -> list[int]:
    """Seeds with which the untrained policies of two runs differ, which would not be a fair start."""
    starts: dict[int, Mapping[str, float]] = {}
    return sorted({run.seed for run in runs if starts.setdefault(run.seed, run.before) != run.before})
