"""The folder of a run: what lies where, created once, never over an earlier one.

runs/<name>/config.yaml          the settings, as composed; what a resume changed, with comments on what it was before
            metrics.jsonl        one line an iteration
            completions.jsonl    every completion with its scores
            rollouts/            with logging.rollouts=true: what each update learned from (`agents.stored`)
            tensorboard/
            checkpoints/
            failure/             where a loss was not finite: the state and the rollout that it happened with, and the
                                 settings, so that `agents.view run=runs/<name>/failure` shows it, and replay
            curves.png           learning curves, drawn at the end
            proxy_and_truth.png  where a part of the reward has weight 0: what is optimized beside what is watched
            summary.json         before and after, seconds, tokens, memory
            held_out.json        what was right at the end, problem by problem
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from agents.checkpoint import write_atomically


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def completions(self) -> Path:
        return self.path / "completions.jsonl"

    @property
    def failure(self) -> Path:
        return self.path / "failure"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def proxy_and_truth(self) -> Path:
        return self.path / "proxy_and_truth.png"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def held_out(self) -> Path:
        return self.path / "held_out.json"

    def check_free(self) -> None:
        """Raise `ValueError` when a run is there already; settings that a kill left half-written are none."""
        if self.path.exists() and any(not part.name.startswith(".") for part in self.path.iterdir()):
            raise ValueError(
                f"name={self.path.name} is taken: {self.path} holds an earlier run, which is never overwritten; "
                f"choose another name, or continue that run with resume={self.path}"
            )

    def create(self, settings: Mapping[str, Any]) -> None:
        """Make the folder and write the settings. Raises `ValueError` when a run is there already."""
        self.check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, yaml.safe_dump(dict(settings), sort_keys=False))

    def rewrite(self, settings: Mapping[str, Any], comments: Sequence[str]) -> None:
        """Other settings, with comments at the top behind those that are there."""
        earlier = takewhile(lambda line: line.startswith("#"), self.config.read_text().splitlines())
        head = [*earlier, *(f"# {' '.join(comment.split())}" for comment in comments)]
        write_atomically(self.config, "\n".join([*head, yaml.safe_dump(dict(settings), sort_keys=False)]))

    def settings(self) -> dict[str, Any]:
        """What was written last. Raises `ValueError` when this is not a run's folder or its settings do not parse."""
        if not self.config.is_file():
            raise ValueError(f"{self.path} is not the folder of a run: it has no {self.config.name}")
        try:
            return yaml.safe_load(self.config.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{self.config} does not parse: {error}") from error

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """For programs."""
        write_atomically(self.summary, json.dumps(summary, indent=2) + "\n")

    def write_held_out(self, by_problem: Mapping[str, Any]) -> None:
        """For who compares runs: means hide which problems they are made of."""
        write_atomically(self.held_out, json.dumps(by_problem) + "\n")


def default_name(agent: str, task: str, seed: int) -> str:
    """Date, time, agent, task and seed: sorted by age, unlikely to be taken."""
    readable = re.sub(r"[^\w.+-]+", "-", task)  # "jsonl:mine.jsonl" is no name for a folder everywhere
    return f"{datetime.now():%Y%m%d-%H%M%S}-{agent}-{readable}-seed{seed}"
