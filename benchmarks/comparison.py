"""Ours beside the peers: workers run in turn, medians behind the warm-up, ratios, and where the results go."""

from __future__ import annotations

import json
import shlex
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.checkpoint import write_atomically
from benchmarks.machine import describe_commit, describe_machine
from benchmarks.peers import environments
from benchmarks.peers.environments import Absent, Worker

HERE = Path(__file__).resolve().parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Weights and tokenizers lie in a folder; nobody asks a hub."""
PRECISIONS = ("bfloat16", "float32")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one worker measured; `absent` says why there is nothing."""

    name: str
    """`ours`, `trl_grpo`, ..."""
    precision: str
    steps: tuple[Mapping[str, float], ...] = ()
    """Behind the warm-up: `seconds`, `tokens`, and the seconds of parts."""
    warm_up_seconds: float = 0.0
    peak_memory_gb: float = 0.0
    absent: str | None = None
    extra: Mapping[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """The median step."""
        return statistics.median(step["seconds"] for step in self.steps)

    @property
    def tokens_per_second(self) -> float:
        """New tokens of a step over its seconds; the median."""
        return statistics.median(step["tokens"] / step["seconds"] for step in self.steps)

    @property
    def parts(self) -> dict[str, float]:
        """Medians of the parts, and the `rest`."""
        names = [name for name in self.steps[0] if name not in ("seconds", "tokens")]
        parts = {name: statistics.median(step.get(name, 0.0) for step in self.steps) for name in names}
        return parts | {"rest": max(0.0, self.seconds - sum(parts.values()))} if parts else parts

    def record(self) -> dict[str, Any]:
        """For the JSON."""
        if self.absent is not None:
            return {"name": self.name, "precision": self.precision, "absent": self.absent}
        return {
            "name": self.name,
            "precision": self.precision,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "parts": self.parts,
            "peak_memory_gb": self.peak_memory_gb,
            "warm_up_seconds": self.warm_up_seconds,
            "steps": list(self.steps),
            **(self.extra or {}),
        }


def script(name: str) -> Path:
    """A worker's script."""
    return environments.HERE / f"{name}.py"


def run_worker(worker: Worker, settings: Mapping[str, Any], *, limit_seconds: float, say: Say) -> dict[str, Any]:
    """What a worker measured; its settings go through a file, since prompts are longer than a command line may be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_text(json.dumps(settings))
        return worker.run({"settings": str(path)}, seconds=limit_seconds, environment=OFFLINE, say=say)


def measure(
    name: str, worker: Worker, settings: Mapping[str, Any], *, precision: str, limit_seconds: float, say: Say
) -> Measured:
    """Run a worker whose first step is the warm-up; a peer that cannot be measured is absent, ours must work."""
    say(f"{name}, {precision} ...")
    try:
        result = run_worker(worker, settings, limit_seconds=limit_seconds, say=say)
    except Absent as reason:
        if worker.peer == environments.OWN:
            raise
        say(f"  absent: {reason}")
        return Measured(name, precision, absent=str(reason))
    measured = measured_from(name, precision, result)
    parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in measured.parts.items())
    say(
        f"  warm-up {measured.warm_up_seconds:.2f} s, then {measured.seconds:.2f} s a step"
        f"{f' ({parts})' if parts else ''}, {measured.peak_memory_gb:.2f} GB"
    )
    return measured


def measured_from(name: str, precision: str, result: Mapping[str, Any]) -> Measured:
    """From what the worker printed. Raises `ValueError` when nothing is left behind the warm-up."""
    first, *steps = result["steps"]
    if not steps:
        raise ValueError(f"{name} must take at least one step behind the warm-up, got {len(result['steps'])} in all")
    extra = {key: value for key, value in result.items() if key not in ("steps", "peak_memory_gb")}
    return Measured(name, precision, tuple(steps), first["seconds"], result["peak_memory_gb"], None, extra)


def speed_ratio(ours: Measured | None, theirs: Measured) -> float | None:
    """Our speed over theirs, at equal work; None where one of them is absent."""
    if ours is None or ours.absent is not None or theirs.absent is not None:
        return None
    return theirs.seconds / ours.seconds


def named_ratios(rows: Sequence[tuple[Measured, float | None]], float32_only: Sequence[str] = ()) -> dict[str, float]:
    """Our speed over each peer's: `name` in bfloat16 (or where there is only float32), else `name/float32`."""
    return {
        m.name if m.precision == "bfloat16" or m.name in float32_only else f"{m.name}/{m.precision}": round(ratio, 3)
        for m, ratio in rows
        if ratio is not None
    }


def step_rows(rows: Sequence[tuple[Measured, float | None]], names: Mapping[str, str]) -> list[str]:
    """A table of measurements, each with our speed over its."""
    lines = [
        "| | precision | seconds a step | of these | new tokens/s | peak GB | our speed over its |",
        "|---|---|---|---|---|---|---|",
    ]
    for m, ratio in rows:
        label = names.get(m.name, m.name)
        if m.absent is not None:
            lines.append(f"| {label} | {m.precision} | absent: {m.absent} | | | | |")
            continue
        times = sorted(step["seconds"] for step in m.steps)
        spread = f"{m.seconds:.2f}" + (f" ({times[0]:.2f} to {times[-1]:.2f})" if len(times) > 1 else "")
        parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in m.parts.items())
        lines.append(
            f"| {label} | {m.precision} | {spread} | {parts} | {m.tokens_per_second:.1f} | {m.peak_memory_gb:.2f} | "
            f"{'' if ratio is None else f'{ratio:.2f}'} |"
        )
    return lines


def about(module: str, words: Sequence[str]) -> dict[str, Any]:
    """What a result is worth nothing without."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *words]),
        "machine": describe_machine(),
        "code": describe_commit(HERE),
    }


def origin(told: Mapping[str, Any]) -> str:
    """The last line of a table."""
    machine, code = told["machine"], told["code"]
    changed = f" with {code['changed_files']} changed files" if code["changed_files"] else ""
    device = f", {machine['accelerator']}" if machine["accelerator"] else ""
    return (
        f"{machine['processor']}, {machine['cores']} cores{device}, torch {machine['torch']}. "
        f"Commit {code['commit']}{changed}. {told['date']}. `{told['command']}`"
    )


def write(folder: Path, results: Mapping[str, Any], table: str) -> None:
    """`results.json` and `table.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_atomically(folder / "table.md", table)
