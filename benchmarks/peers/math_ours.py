"""`rewards.math.MathAnswer` on Math-Verify's cases: what it says, and how long each case takes.

`inline` compares in this process, as in a worker of a `Scorer`; without it each call goes to the worker process.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rewards import worker_process
from rewards.math import MathAnswer

PLACES = {("expr",): "number", ("latex",): "formula", ("latex", "expr"): "both"}
PLAIN = {"integer": (r"we get \boxed{1,234}.", "1234"), "fraction": (r"we get \boxed{\frac{3}{4}}.", "3/4")}
REPEATS = 5000


def reward(options: dict[str, Any]) -> MathAnswer:
    """Where a case's options let the answer stand, how precise it must be, and what may be compared."""
    precision = options["precision"]
    return MathAnswer(
        anywhere=PLACES[tuple(options["match_types"])],
        decimals=precision if precision < 5 else None,
        inequalities=options["allow_set_relation_comp"],
        key_in_text=True,
    )


def verdict(fn: MathAnswer, case: dict[str, Any]) -> bool | None:
    """Whether we call the two texts equal; None where the key is not understood."""
    try:
        return fn(completion=case["pred"], answer=case["gold"]).value == 1.0
    except ValueError:
        return None


def microseconds(text: str, key: str) -> float:
    """Processor time of one call on a plain number, on average."""
    fn = MathAnswer()
    started = time.process_time()
    for _ in range(REPEATS):
        fn(completion=text, answer=key)
    return (time.process_time() - started) / REPEATS * 1e6


def main() -> None:
    """Warm up, then each case once, then the plain numbers."""
    settings = json.loads(Path(json.loads(sys.argv[1])["settings"]).read_text())
    worker_process.inside_worker = settings["inline"]
    rewards = [reward(case["options"]) for case in settings["cases"]]
    for case in settings["warm_up"]:
        verdict(reward(case["options"]), case)
    verdicts, seconds, cpu_seconds = [], [], []
    for fn, case in zip(rewards, settings["cases"], strict=True):
        started, cpu_started = time.perf_counter(), time.process_time()
        verdicts.append(verdict(fn, case))
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    plain = {name: microseconds(text, key) for name, (text, key) in PLAIN.items()}
    print(
        json.dumps({"verdicts": verdicts, "seconds": seconds, "cpu_seconds": cpu_seconds, "plain_microseconds": plain})
    )


if __name__ == "__main__":
    main()
