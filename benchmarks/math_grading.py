"""Ours beside Math-Verify on Math-Verify's own test cases: accuracy, false positives, and time a case.

    python -m benchmarks.math_grading

269 cases with the options of their tests, one label of which is wrong and counts for nobody. Both read key and answer
anew in each case. Ours is timed with the worker process included (each call goes there and back) and without (in the
process itself); Math-Verify runs in its own process, in the main thread, as it must. Rounds alternate, each in fresh
processes: ours has judged six other formulas before, Math-Verify every case once, since its ANTLR parser learns from
what it reads. A case's time is its median over the rounds; processor time tells what a busy machine adds to it. Writes
a table and the numbers to `benchmarks/results/math_grading/`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison import HERE, about, origin, run_worker, script, write
from benchmarks.peers.environments import OWN, ROOT, Absent, Worker

CASES = ROOT / "tests" / "rewards" / "math" / "math_verify_cases.jsonl"
WRONG_LABEL = "tests/test_yujianll.py::test_string_extraction[9]"
OPTIONS = {"match_types": ["latex", "expr"], "precision": 6, "strict": True, "allow_set_relation_comp": False}
WARM_UP = (
    (r"$2\sqrt{5}$", r"$\boxed{\sqrt{20}}$"),
    (r"$(z+1)^2$", r"$\boxed{z^2+2z+1}$"),
    (r"$\{7, 8\}$", r"$\boxed{\{8, 7\}}$"),
    (r"$[3, 8)$", r"$\boxed{[3, 8)}$"),
    (r"$z < 4$", r"$4 > z$"),
    (r"$\begin{pmatrix} 7 & 8 \end{pmatrix}$", r"$\begin{pmatrix} 7 & 9 \end{pmatrix}$"),
)
"""Formulas that no case has: what is imported and started on first use is so before the clock runs."""
NAMES = {
    "ours": "ours, worker process included",
    "ours_inline": "ours, without the way to the worker",
    "math_verify": "Math-Verify 0.9.0",
}


def load_cases() -> list[dict[str, Any]]:
    """The cases, without the one whose label is wrong."""
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    return [case for case in cases if case["source"] != WRONG_LABEL]


def measure(cases: Sequence[Mapping[str, Any]], rounds: int) -> dict[str, list[dict[str, Any]] | str]:
    """What each says and takes, by round; a string says why it is absent."""
    warm_up = [{"gold": gold, "pred": pred, "source": "warm-up", "options": OPTIONS} for gold, pred in WARM_UP]
    workers: dict[str, tuple[Worker, dict[str, Any]]] = {
        "ours": (Worker(OWN, script("math_ours")), {"inline": False}),
        "ours_inline": (Worker(OWN, script("math_ours")), {"inline": True}),
        "math_verify": (Worker("math_verify", script("math_verify_grading")), {"warm_up": list(cases)}),
    }
    found: dict[str, list[dict[str, Any]] | str] = {name: [] for name in workers}
    for number in range(rounds):
        for name, (worker, settings) in workers.items():
            so_far = found[name]
            if isinstance(so_far, str):
                continue
            print(f"round {number + 1}: {NAMES[name]} ...", file=sys.stderr)
            try:
                asked = {"cases": list(cases), "warm_up": warm_up, **settings}
                so_far.append(run_worker(worker, asked, limit_seconds=600.0, say=print))
            except Absent as reason:
                if worker.peer == OWN:
                    raise
                found[name] = str(reason)
    return found


def summary(cases: Sequence[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cases judged as labelled, false positives, and milliseconds: the median and the 90th percentile over cases.

    >>> cases = [{"source": "a", "expected": True}, {"source": "b", "expected": False}]
    >>> summary(cases, [{"verdicts": [True, True], "seconds": [0.1, 0.3], "cpu_seconds": [0.1, 0.3]}])["right"]
    1
    """
    verdicts = rounds[0]["verdicts"]
    seconds = sorted(_of_cases(rounds, "seconds"))
    labelled = list(zip(cases, verdicts, strict=True))
    return {
        "cases": len(cases),
        "right": sum(found == case["expected"] for case, found in labelled),
        "false_positives": [case["source"] for case, found in labelled if found and not case["expected"]],
        "wrong": [case["source"] for case, found in labelled if found != case["expected"]],
        "median_ms": 1e3 * statistics.median(seconds),
        "p90_ms": 1e3 * seconds[max(0, -(-9 * len(seconds) // 10) - 1)],
        "mean_ms": 1e3 * statistics.fmean(seconds),
        "median_cpu_ms": 1e3 * statistics.median(_of_cases(rounds, "cpu_seconds")),
        "plain_microseconds": {
            name: statistics.median(one["plain_microseconds"][name] for one in rounds)
            for name in rounds[0].get("plain_microseconds", {})
        },
    }


def _of_cases(rounds: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The median over the rounds, by case."""
    return [statistics.median(of_case) for of_case in zip(*(one[name] for one in rounds), strict=True)]


def ratios(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Our speed over Math-Verify's, in the median and the 90th percentile; nothing where it is absent."""
    theirs = summaries.get("math_verify")
    if theirs is None:
        return {}
    figures = [("ours", "median"), ("ours", "p90"), ("ours_inline", "median"), ("ours_inline", "p90")]
    return {
        f"{name}/{figure}": round(theirs[f"{figure}_ms"] / summaries[name][f"{figure}_ms"], 2)
        for name, figure in [*figures, ("ours_inline", "median_cpu")]
    }


def table(summaries: Mapping[str, Mapping[str, Any]], absent: Mapping[str, str], told: Mapping[str, Any]) -> str:
    """The numbers for people."""
    rows = [
        f"| {NAMES[name]} | {s['right']} of {s['cases']} | {len(s['false_positives'])} | {s['median_ms']:.3f} "
        f"| {s['p90_ms']:.2f} | {s['mean_ms']:.2f} | {'' if name == 'ours' else format(s['median_cpu_ms'], '.3f')} |"
        for name, s in summaries.items()
    ]
    plain = ", ".join(f"{name} {value:.1f}" for name, value in summaries["ours"]["plain_microseconds"].items())
    return "\n".join(
        [
            "# Grading mathematics",
            "",
            "Math-Verify's own 269 test cases but the one with a wrong label, each with the options of its test. "
            "Math-Verify has read every case once before; ours has not.",
            "",
            "| | as labelled | false positives | median, ms | 90th percentile, ms | mean, ms | median CPU, ms |",
            "|---|---|---|---|---|---|---|",
            *rows,
            *[f"| {NAMES[name]} | absent: {reason} | | | | | |" for name, reason in absent.items()],
            "",
            f"A plain number, in microseconds of processor time: {plain}.",
            "",
            f"Cases we do not judge as labelled: {', '.join(summaries['ours']['wrong'])}.",
            "",
            origin(told),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the ratios as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "math_grading")
    options = parser.parse_args(arguments)
    cases = load_cases()
    found = measure(cases, options.rounds)
    summaries = {name: summary(cases, rounds) for name, rounds in found.items() if not isinstance(rounds, str)}
    absent = {name: reason for name, reason in found.items() if isinstance(reason, str)}
    told = about("math_grading", sys.argv[1:] if arguments is None else arguments)
    shown = table(summaries, absent, told)
    result = {**told, "rounds": options.rounds, "summaries": summaries, "absent": absent, "ratios": ratios(summaries)}
    write(options.output, result, shown)
    print(shown)
    print(json.dumps({"benchmark": "math_grading", "ratios": ratios(summaries)}))


if __name__ == "__main__":
    main()
