"""The main job over several seeds: `make train` as it is, with nothing changed but the seed.

    python -m benchmarks.main_job
    python -m benchmarks.main_job --agent ppo --seeds 0

Writes a table, the numbers and a picture to `benchmarks/results/main_job_<agent>/`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.checkpoint import write_atomically
from agents.report import draw_curves
from benchmarks.finished_run import FinishedRun, run_training
from benchmarks.machine import describe_commit, describe_machine

HERE = Path(__file__).resolve().parent


def measure(agent: str, seeds: Sequence[int], overrides: Sequence[str]) -> list[FinishedRun]:
    """One run after the other, each a process of its own."""
    folder = Path("runs") / "main_job" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    runs = []
    for seed in seeds:
        run = run_training(agent, seed, folder / f"{agent}-seed{seed}", overrides)
        print(row(run), flush=True)
        runs.append(run)
    return runs


def row(run: FinishedRun) -> str:
    """One line of the table."""
    s = run.summary
    sampled = s["after"].get("eval/sampled_accuracy")
    cells = (
        str(run.seed),
        f"{s['accuracy']['before']:.3f}",
        f"{s['accuracy']['after']:.3f}",
        "-" if sampled is None else f"{sampled:.3f}",
        f"{s['seconds']:.0f}",
        f"{run.process_seconds:.0f}",
        str(s["iterations"]),
        f"{s['tokens']:,}",
        f"{s['peak_memory_gb']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def table(runs: Sequence[FinishedRun], about: dict[str, Any]) -> str:
    """Every seed, and how to repeat it."""
    machine, code = about["machine"], about["code"]
    changed = f" with {code['changed_files']} changed files" if code["changed_files"] else ""
    first = runs[0].summary
    return "\n".join(
        [
            f"# {first['agent'].upper()}, {first['model']} ({first['precision']}), {first['task']}",
            "",
            f"Greedy accuracy on {first['num_problems']} held-out problems; `sampled` at the training temperature.",
            "",
            "| seed | before | after | sampled | training s | whole process s | iterations | tokens | peak GB |",
            "|---|---|---|---|---|---|---|---|---|",
            *map(row, runs),
            "",
            f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}. "
            f"Commit {code['commit']}{changed}. {about['date']}. `{about['command']}`",
            "",
        ]
    )


def write(runs: Sequence[FinishedRun], about: dict[str, Any], folder: Path) -> None:
    """Table, numbers and curves with the spread over seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [{"seed": r.seed, "command": r.command, "summary": r.summary, "curve": r.curve} for r in runs]
    write_atomically(folder / "results.json", json.dumps({**about, "runs": shown}, indent=1) + "\n")
    write_atomically(folder / "table.md", table(runs, about))
    curves = [[{**r.curve[0], "iteration": 0, **r.summary["before"]}, *r.records] for r in runs]
    label = runs[0].agent.upper()
    title = f"{label}: {runs[0].summary['task']}, {runs[0].summary['model']}, {len(runs)} seeds"
    draw_curves({label: curves}, folder / "curves.png", x="time/train_seconds", title=title)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the numbers as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", choices=("grpo", "ppo"), default="grpo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="folder; default: benchmarks/results/main_job_<agent>")
    parser.add_argument("overrides", nargs="*", help="settings of agents.train")
    options = parser.parse_args(arguments)
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(
            ["python", "-m", "benchmarks.main_job", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "machine": describe_machine(),
        "code": describe_commit(HERE),
    }
    runs = measure(options.agent, options.seeds, options.overrides)
    write(runs, about, options.output or HERE / "results" / f"main_job_{options.agent}")
    print(
        json.dumps(
            {"benchmark": "main_job", "agent": options.agent, "after": [r.summary["accuracy"]["after"] for r in runs]}
        )
    )


if __name__ == "__main__":
    main()
