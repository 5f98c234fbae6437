"""The headline: how long until the main job's held-out accuracy is reached, in our GRPO and in TRL's GRPOTrainer?

    python -m benchmarks.time_to_accuracy
    python -m benchmarks.time_to_accuracy --seeds 0 --limit-seconds 1800
    python -m benchmarks.time_to_accuracy --resume
    python -m benchmarks.time_to_accuracy iterations=3 agent.optim.decay=constant --every 1 --to-the-end --seeds 25 26

Task, model, prompts (the same text in the same order), reward, group size, learning rates, lengths, temperature and
number format are those of `agents.train agent=grpo`; further settings may be given as for `agents.train`. Held-out
problems are answered greedily after every `--every` iterations and before the first. The target is reached at the first
examination at or above `--accuracy`; seconds are those of collecting and updating, examinations, start-up and
checkpoints excluded on both sides. TRL ends when it has reached the target (`--to-the-end`: at the last iteration) or
after `--limit-seconds` of training; a run that ended without the target is censored: it would have taken more than
that, and the ratio is a lower bound. What both have learned from equal numbers of generated tokens is compared seed by
seed; the last command does so for the first three iterations of the main job, in which its rates do not decay. Each run
is kept as soon as it is over; `--resume` measures only what is missing.
Writes a table, the numbers and two pictures to `benchmarks/results/time_to_accuracy/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.checkpoint import write_atomically
from agents.report import draw_curves
from benchmarks.comparison import HERE, Say, about, origin, run_worker, script, write
from benchmarks.equal_tokens import AtTokens, at_equal_tokens, table_lines
from benchmarks.finished_run import digest, run_training
from benchmarks.peer_run import compose_run, peer_settings, read_points, told
from benchmarks.peers.environments import Absent, Worker
from benchmarks.reaching import Reach
from benchmarks.reaching import reach as first_reach

OURS, TRL = "ours", "trl_grpo"
NAMES = {OURS: "textenv GRPO", TRL: "TRL 1.16 GRPOTrainer"}
WHOLE = ("end", "target", "limit")
"""How a run ends that did not break off."""
SLACK_SECONDS = 7200
"""Beyond the limit of training: start-up and examinations of a worker."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One run: who, with which seed, and what its examinations found."""

    who: str
    seed: int
    settings: str
    """A digest of everything that was asked for; a run with another one is measured anew."""
    points: tuple[Mapping[str, float], ...]
    """`num_tokens`, `time/train_seconds`, `eval/accuracy`, and `reward/mean` since the one before."""
    seconds: float
    """Of training, to the end of the run."""
    tokens: float
    stopped: str
    """`end`, `target`, `limit`, or why it broke off."""
    peak_memory_gb: float | None
    command: str
    measured: Mapping[str, Any]
    """Date, machine and commit."""


def reach(curve: Curve, target: float) -> Reach:
    """The first examination at or above the target."""
    return first_reach(curve.points, target, seconds=curve.seconds, tokens=curve.tokens)


def compare(curves: Sequence[Curve], target: float, name: str = "seconds") -> tuple[float | None, bool]:
    """Theirs over ours, summed over the seeds that both have run, and whether it is only a lower bound.

    None where there is no such seed, or where one of ours never reached the target: then nothing can be said.
    """
    ours = {c.seed: reach(c, target) for c in curves if c.who == OURS}
    theirs = {c.seed: reach(c, target) for c in curves if c.who == TRL}
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds or any(ours[seed].censored for seed in seeds):
        return None, any(theirs[seed].censored for seed in seeds)
    mine = sum(getattr(ours[seed], name) for seed in seeds)
    ratio = sum(getattr(theirs[seed], name) for seed in seeds) / mine if mine else None
    return ratio, any(theirs[seed].censored for seed in seeds)


def learned(curves: Sequence[Curve]) -> list[AtTokens]:
    """Both after equal numbers of generated tokens."""
    ours, theirs = ({c.seed: c.points for c in curves if c.who == who} for who in (OURS, TRL))
    return at_equal_tokens(ours, theirs)


def run_ours(seed: int, options: argparse.Namespace, settings: str, measured: dict[str, Any]) -> Curve:
    """Our run to its last iteration."""
    folder = Path("runs") / "time_to_accuracy" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}" / f"grpo-seed{seed}"
    overrides = [
        f"evaluation.every={options.every}",
        "evaluation.samples=0",
        "checkpoint_every=1000000",
        "logging.tensorboard=false",
        *options.overrides,
    ]
    run = run_training("grpo", seed, folder, overrides)
    return Curve(
        OURS,
        seed,
        settings,
        tuple(run.curve),
        run.summary["seconds"],
        run.summary["tokens"],
        "end",
        run.summary["peak_memory_gb"],
        run.command,
        measured,
    )


def run_trl(
    seed: int, options: argparse.Namespace, asked: dict[str, Any], settings: str, measured: dict[str, Any], say: Say
) -> Curve:
    """TRL's run, to the target, the limit or the end. Raises `Absent` where it did not even examine once."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress.jsonl"
        held_out = {
            **asked["held_out"],
            "every": options.every,
            "target": 2.0 if options.to_the_end else options.accuracy,
            "limit_seconds": options.limit_seconds,
            "progress": str(progress),
        }
        result: dict[str, Any] = {"peak_memory_gb": None}
        with told(progress, lambda point: say(examined(TRL, seed, point))):
            try:
                limit = options.limit_seconds + SLACK_SECONDS
                worker = Worker("trl", script("trl_grpo"))
                result = run_worker(worker, {**asked, "held_out": held_out}, limit_seconds=limit, say=say)
            except Absent as reason:
                if not read_points(progress):
                    raise
                result["stopped"] = str(reason)
        points = result.get("points") or read_points(progress)
    steps = result.get("steps", [])
    return Curve(
        TRL,
        seed,
        settings,
        tuple(points),
        sum(step["seconds"] for step in steps) if steps else points[-1]["time/train_seconds"],
        sum(step["tokens"] for step in steps) if steps else points[-1]["num_tokens"],
        result["stopped"],
        result["peak_memory_gb"],
        "benchmarks/peers/trl_grpo.py",
        measured,
    )


def examined(who: str, seed: int, point: Mapping[str, float]) -> str:
    """A line of progress."""
    return (
        f"  {who} seed {seed}: accuracy {point['eval/accuracy']:.3f} after {point['time/train_seconds']:.0f} s and "
        f"{point['num_tokens']:,.0f} tokens"
    )


def kept(path: Path, settings: str) -> Curve | None:
    """A run that was measured before with the same settings."""
    if not path.is_file():
        return None
    curve = Curve(**json.loads(path.read_text()))
    whole = curve.settings == settings and curve.stopped in WHOLE
    return dataclasses.replace(curve, points=tuple(curve.points)) if whole else None


def measure_all(options: argparse.Namespace, told_about: dict[str, Any], say: Say) -> list[Curve]:
    """Seed by seed, ours and then TRL's; every finished run is written at once, with table and pictures."""
    curves: list[Curve] = []
    measured = {name: told_about[name] for name in ("date", "machine", "code")}
    for seed in options.seeds:
        config = compose_run(seed, options.overrides)
        asked = peer_settings(config, micro_batch=options.micro_batch) if TRL in options.who else {}
        for who in options.who:
            ends = (options.accuracy, options.to_the_end, options.limit_seconds) if who == TRL else ()
            settings = digest(who, options.every, options.overrides, asked if who == TRL else config, *ends)
            path = options.output / "runs" / f"{who}-seed{seed}.json"
            curve = kept(path, settings) if options.resume else None
            say(f"{NAMES[who]}, seed {seed}{' (kept from before)' if curve else ''} ...")
            try:
                if curve is None and who == OURS:
                    curve = run_ours(seed, options, settings, measured)
                    for point in curve.points:
                        say(examined(OURS, seed, point))
                elif curve is None:
                    curve = run_trl(seed, options, asked, settings, measured, say)
            except Absent as reason:
                say(f"  absent: {reason}")
                continue
            assert curve is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(dataclasses.asdict(curve), indent=1) + "\n")
            curves.append(curve)
            write_all(curves, options, told_about)
    return curves


def write_all(curves: Sequence[Curve], options: argparse.Namespace, told_about: dict[str, Any]) -> None:
    """Numbers, table and pictures of the runs so far."""
    target = options.accuracy
    ratios = {name: compare(curves, target, name) for name in ("seconds", "tokens")}
    results = {
        **told_about,
        "target_accuracy": target,
        "every": options.every,
        "limit_seconds": options.limit_seconds,
        "accuracy_at_equal_tokens": [row.record() for row in learned(curves)],
        "ratios": {name: {"ratio": ratio, "lower_bound": bound} for name, (ratio, bound) in ratios.items()},
        "runs": [{**dataclasses.asdict(c), "reached": dataclasses.asdict(reach(c, target))} for c in curves],
    }
    write(options.output, results, table(curves, options, told_about))
    by_name = {name: [list(c.points) for c in curves if c.who == who] for who, name in NAMES.items()}
    there = {name: runs for name, runs in by_name.items() if runs}
    draw_curves(there, options.output / "curves_seconds.png", x="time/train_seconds")
    draw_curves(there, options.output / "curves_tokens.png", x="num_tokens")


def table(curves: Sequence[Curve], options: argparse.Namespace, told_about: dict[str, Any]) -> str:
    """The numbers for people."""
    job = shlex.join(["python", "-m", "agents.train", "agent=grpo", *options.overrides])
    lines = [
        f"# Time to a held-out accuracy of {options.accuracy:g}",
        "",
        f"`{job}`, examined greedily every {options.every} iterations; seconds of training alone. TRL with its "
        f"defaults, in micro-batches of {options.micro_batch}, for at most {options.limit_seconds:,.0f} s.",
        "",
        "| | seed | seconds | generated tokens | accuracy at last | seconds in all | ended by | peak GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in curves:
        r = reach(c, options.accuracy)
        cells = (
            NAMES[c.who],
            str(c.seed),
            r.shown("seconds"),
            r.shown("tokens"),
            f"{c.points[-1]['eval/accuracy']:.3f}",
            f"{c.seconds:,.0f}",
            c.stopped,
            "-" if c.peak_memory_gb is None else f"{c.peak_memory_gb:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    for name in ("seconds", "tokens"):
        ratio, bound = compare(curves, options.accuracy, name)
        if ratio is not None:
            lines += ["", f"TRL's {name} over ours: {'more than ' if bound else ''}{ratio:.2f}."]
    equal = learned(curves)
    if equal:
        lines += ["", "Held-out accuracy after equal numbers of generated tokens, where TRL was examined:", ""]
        lines += table_lines(equal)
    for c in curves:
        if c.measured["code"]["commit"] != told_about["code"]["commit"]:
            lines += [
                "",
                f"{NAMES[c.who]}, seed {c.seed}: kept from {c.measured['date']}, {c.measured['code']['commit']}.",
            ]
    return "\n".join([*lines, "", origin(told_about), ""])


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--accuracy", type=float, default=0.85, help="held-out, greedy: the target")
    parser.add_argument("--every", type=int, default=1, help="iterations between examinations")
    parser.add_argument("--limit-seconds", type=float, default=7200, help="of training, for each of TRL's runs")
    parser.add_argument("--to-the-end", action="store_true", help="let TRL go on behind the target")
    parser.add_argument("--micro-batch", type=int, default=16, help="rows that TRL takes at once")
    parser.add_argument("--who", nargs="+", choices=tuple(NAMES), default=list(NAMES))
    parser.add_argument("--resume", action="store_true", help="keep runs that were measured with the same settings")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "time_to_accuracy")
    parser.add_argument("overrides", nargs="*", help="settings of agents.train, before the first option or behind --")
    options = parser.parse_args(arguments)
    if not 0 < options.accuracy <= 1:
        parser.error(f"--accuracy must be above 0 and at most 1, got {options.accuracy}")
    if options.every < 1:
        parser.error(f"--every must be at least 1, got {options.every}")
    if options.device != "auto":
        options.overrides = [f"policy.device={options.device}", *options.overrides]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the ratio as JSON in the last line."""
    options = options_of(arguments)
    told_about = about("time_to_accuracy", sys.argv[1:] if arguments is None else arguments)
    try:
        curves = measure_all(options, told_about, lambda text: print(text, flush=True))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print("\n" + table(curves, options, told_about))
    seconds, censored = compare(curves, options.accuracy)
    tokens, _ = compare(curves, options.accuracy, "tokens")
    last = {
        "benchmark": "time_to_accuracy",
        "ratios": {} if seconds is None else {TRL: round(seconds, 3)},
        "token_ratios": {} if tokens is None else {TRL: round(tokens, 3)},
        "censored": censored,
    }
    print(json.dumps(last))


if __name__ == "__main__":
    main()
