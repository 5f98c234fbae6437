"""The command: `python -m agents.verify`. Ends with 1 where a promise is not kept."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from agents.verify.cells import Cell, combinations, table
from agents.verify.differences import Difference, differences
from agents.verify.table import LEGEND, as_json, markdown, show, show_differences
from agents.verify.verdict import Verdict, judge

PIPE_WIDTH = 160


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the cells that are asked for, print them, and say whether every promise is kept."""
    asked = parser().parse_args(arguments)
    chosen = [cell for cell in (combinations() if asked.all else table()) if matches(cell, asked.words)]
    if not chosen and not asked.words:
        raise AssertionError("there are cells")
    found = [] if asked.words else differences()
    verdicts = [judge(cell) for cell in chosen]
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    if asked.markdown:
        print(markdown(verdicts))
    elif asked.all:
        show([verdict for verdict in verdicts if not verdict.kept], console)
        console.print(summary(verdicts))
    else:
        console.print(LEGEND + "\n")
        show(verdicts, console)
        if found:
            show_differences(found, console)
        console.print(summary(verdicts))
    if asked.json is not None:
        asked.json.write_text(as_json(verdicts, found) + "\n", encoding="utf-8")
    if not verdicts:
        console.print(f"no cell has all of: {' '.join(asked.words)}")
    return int(not verdicts or broken(verdicts, found) > 0)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m agents.verify",
        description="Sums the gradient of every objective over every batch of worlds that are small enough, with the "
        "code that trains, and compares it with the gradient of the true objective. Ends with 1 where a setting that "
        "promises to be unbiased is not.",
    )
    made.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="only cells with all of these in their section or settings, as in: ppo lam",
    )
    made.add_argument(
        "--all", action="store_true", help="every combination of settings, some two thousand; prints what is broken"
    )
    made.add_argument("--markdown", action="store_true", help="print one table in Markdown")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, gradients included, to FILE")
    return made


def matches(cell: Cell, words: Sequence[str]) -> bool:
    """Whether all words stand in its section or name."""
    text = f"{cell.section} {cell.name}".lower()
    return all(word.lower() in text for word in words)


def broken(verdicts: Sequence[Verdict], found: Sequence[Difference]) -> int:
    """How many promises are not kept."""
    return sum(not verdict.kept for verdict in verdicts) + sum(not difference.kept for difference in found)


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many of each kind."""
    count = Counter(verdict.kind for verdict in verdicts)
    kept = sum(verdict.kept for verdict in verdicts)
    return (
        f"{len(verdicts)} cells: {count['exact']} exact, {count['other']} exactly the gradient of another objective, "
        f"{count['biased']} biased for a reason, {count['refused']} refused; {len(verdicts) - kept} broken"
    )


if __name__ == "__main__":
    sys.exit(main())
