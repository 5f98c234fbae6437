"""One training run of a benchmark: started as its own process, read back from its folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    held_out: dict[str, Any] = field(default_factory=dict)
    """What was right at the end, problem by problem (`held_out.json`)."""

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


def run_training(
    agent: str,
    seed: int,
    folder: Path,
    overrides: Sequence[str],
    *,
    choice: Sequence[str] | None = None,
    watch: Callable[[Mapping[str, float]], None] | None = None,
) -> FinishedRun:
    """Train in a process of its own. Raises `RuntimeError` with the end of its log when it fails.

    `choice` says what `agent` is called on the command line where it is not `agent=<agent>`; `watch` is told the newest
    metrics every few seconds.
    """
    chosen = [f"agent={agent}"] if choice is None else choice
    command = [sys.executable, "-m", "agents.train", *chosen, f"seed={seed}"]
    command += [*overrides, f"runs={folder.parent}", f"name={folder.name}"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    started = time.perf_counter()
    with log.open("w") as file, watched(RunFolder(folder).metrics, watch):
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - started
    found = RunFolder(folder)
    if done.returncode or not found.summary.is_file():
        end = "\n".join(log.read_text().splitlines()[-LOG_LINES:])
        raise RuntimeError(f"{shown(command)} ended with {done.returncode}:\n{end}")
    return read_run(agent, seed, shown(command), found, seconds)


def read_run(agent: str, seed: int, command: str, found: RunFolder, seconds: float) -> FinishedRun:
    """What a finished run left in its folder."""
    return FinishedRun(
        agent,
        seed,
        command,
        found.settings(),
        json.loads(found.summary.read_text()),
        read_metrics(found.metrics),
        seconds,
        json.loads(found.held_out.read_text()),
    )


@contextmanager
def watched(path: Path, watch: Callable[[Mapping[str, float]], None] | None, every: float = 5.0) -> Iterator[None]:
    """Tell the newest whole line of a file of metrics, as long as the block runs."""
    over = threading.Event()

    def follow() -> None:
        while watch is not None and not over.wait(every):
            lines = path.read_text().split("\n")[:-1] if path.is_file() else []
            if lines:
                watch(json.loads(lines[-1]))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def shown(command: Sequence[str]) -> str:
    """A command as one would type it."""
    return " ".join(["python", *(os.path.relpath(x) if os.path.isabs(x) else x for x in command[1:])])


def digest(*parts: Any) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
