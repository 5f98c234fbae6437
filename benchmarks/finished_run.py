"""One training run of a benchmark: started as its own process, read back from its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.metrics import read_metrics
from agents.run_folder import RunFolder

LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What the run's folder holds."""

    agent: str
    seed: int
    command: str
    settings: dict[str, Any]
    summary: dict[str, Any]
    records: list[dict[str, float]]
    """One an iteration."""
    process_seconds: float
    """From start to end: imports, model, evaluations and training."""

    @property
    def curve(self) -> list[dict[str, float]]:
        """A record for each evaluation, that before training included; rewards are means since the one before."""
        summary = self.summary
        points = [{"num_tokens": 0.0, "time/train_seconds": 0.0, "eval/accuracy": summary["accuracy"]["before"]}]
        rewards: list[float] = []
        for record in self.records:
            rewards.append(record["reward/mean"])
            last = record is self.records[-1]
            if "eval/accuracy" in record or last:
                accuracy = summary["accuracy"]["after"] if last else record["eval/accuracy"]
                reward = sum(rewards) / len(rewards)
                points.append(
                    {
                        "num_tokens": record["num_tokens"],
                        "time/train_seconds": record["time/train_seconds"],
                        "eval/accuracy": accuracy,
                        "reward/mean": reward,
                    }
                )
                rewards = []
        return points

    def total(self, metric: str) -> float:
        """The sum of a metric over the iterations."""
        return sum(record.get(metric, 0.0) for record in self.records)

    def reached(self, target: float) -> dict[str, float] | None:
        """The first evaluation with an accuracy of at least `target`."""
        return next((point for point in self.curve if point["eval/accuracy"] >= target), None)


def run_training(agent: str, seed: int, folder: Path, overrides: Sequence[str]) -> FinishedRun:
    """Train in a process of its own. Raises `RuntimeError` with the end of its log when it fails."""
    command = [sys.executable, "-m", "agents.train", f"agent={agent}", f"seed={seed}"]
    command += [*overrides, f"runs={folder.parent}", f"name={folder.name}"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    started = time.perf_counter()
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - started
    if done.returncode or not (folder / "summary.json").is_file():
        end = "\n".join(log.read_text().splitlines()[-LOG_LINES:])
        raise RuntimeError(f"{shown(command)} ended with {done.returncode}:\n{end}")
    summary = json.loads((folder / "summary.json").read_text())
    settings = RunFolder(folder).settings()
    return FinishedRun(agent, seed, shown(command), settings, summary, read_metrics(folder / "metrics.jsonl"), seconds)


def shown(command: Sequence[str]) -> str:
    """A command as one would type it."""
    return " ".join(["python", *(os.path.relpath(x) if os.path.isabs(x) else x for x in command[1:])])
