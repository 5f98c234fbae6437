"""Where the numbers of an iteration go: a file of JSON lines, TensorBoard, Weights & Biases.

A writer is anything that is called with `(iteration, metrics)`; the training loop holds a list of them. Those here
also have `close`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Log = Callable[[int, Mapping[str, float]], None]


class JsonLines:
    """One JSON object a line and iteration, appended and flushed: `{"iteration": 3, "reward/mean": 0.5, ...}`.

    Numbers that are not finite are written as null, which every reader of JSON understands. A last line that a crash
    left unfinished is removed when the file is opened.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _cut(self.path, lambda record: False)
        self._file = self.path.open("a", encoding="utf-8")

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> None:
        record = {"iteration": iteration, **{name: _finite(number) for name, number in metrics.items()}}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars for `tensorboard --logdir <folder>`. `purge_after` hides what an interrupted run wrote past it."""

    def __init__(self, folder: Path | str, *, purge_after: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if purge_after is None else purge_after + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> None:
        for name, number in metrics.items():
            self._writer.add_scalar(name, number, iteration)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Scalars for Weights & Biases; the package is imported only here.

    The run's identity is kept in `<folder>/wandb_id`, so that a resumed run continues its curves. Raises
    `ValueError` when the package is not installed.
    """

    def __init__(self, folder: Path | str, *, project: str, name: str, config: Mapping[str, Any] | None = None) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ValueError(
                "logging to Weights & Biases needs the package wandb: pip install textenv[wandb], or leave it out"
            ) from error
        identity = Path(folder) / "wandb_id"
        known = identity.read_text().strip() if identity.exists() else None
        self._run = wandb.init(
            project=project, name=name, config=dict(config or {}), dir=str(folder), id=known, resume="allow"
        )
        identity.write_text(f"{self._run.id}\n")

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=iteration)

    def close(self) -> None:
        self._run.finish()


def read_metrics(path: Path | str) -> list[dict[str, float]]:
    """The records of a `JsonLines` file, in order; null becomes NaN. Otherwise as `read_records`."""
    return [{name: math.nan if x is None else x for name, x in record.items()} for record in read_records(path)]


def read_records(path: Path | str) -> list[dict[str, Any]]:
    """The records of metrics or completions, in order; an unfinished last line is left out.

    Raises `ValueError` with file and line number for any other line that is not an object with an `iteration`.
    """
    lines = Path(path).read_bytes().splitlines(keepends=True)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_parse(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not a record ({error})") from error
    return records


def truncate_after(path: Path | str, iteration: int) -> None:
    """Remove the records after `iteration`, so that a resumed run does not write them twice.

    Cuts the file at the first such record, in one call of the system. No file is no error.
    """
    if Path(path).exists():
        _cut(Path(path), lambda record: record["iteration"] > iteration)


def _cut(path: Path, is_surplus: Callable[[dict[str, Any]], bool]) -> None:
    """Cut the file before the first surplus or unfinished line."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or is_surplus(_parse(line)):
                    break
            except ValueError:
                if not file.peek(1):
                    break
            end += len(line)
    if end < path.stat().st_size:
        os.truncate(path, end)


def _parse(line: bytes) -> dict[str, Any]:
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("iteration"), int):
        raise ValueError("expected an object with an integer `iteration`")
    return record


def _finite(number: float) -> float | None:
    number = float(number)
    return number if math.isfinite(number) else None
