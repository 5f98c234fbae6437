"""Verdicts to read: in a terminal as wide as it is, in Markdown, in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from math import isfinite

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.verify.differences import Difference
from agents.verify.verdict import TOLERANCE, Verdict

COLUMNS = ("settings", "scale", "bias", "variance", "cosine", "expected gradient")
FEW = 3
"""Logits that are shown one by one."""
COLOURS = {"exact": "green", "other": "cyan", "biased": "yellow", "refused": "red"}
LEGEND = (
    "Every batch is summed with its probability, nothing is sampled. scale: the multiple of the true gradient that comes "
    "closest; bias: what it leaves, relative to it, which no learning rate repairs; variance: of one batch's gradient, "
    "in squares of the expected one's length; cosine: to the true gradient, that of E[R] - beta KL of whole answers."
)


def row(verdict: Verdict) -> tuple[str, ...]:
    """A verdict's cells."""
    return (
        verdict.name,
        number(verdict.scale),
        "0" if verdict.bias is not None and verdict.bias < TOLERANCE else number(verdict.bias),
        number(verdict.variance),
        "" if verdict.cosine is None else f"{verdict.cosine:.4f}".replace("-0.0000", "0.0000"),
        meaning(verdict),
    )


def number(x: float | None) -> str:
    """Three digits."""
    return "" if x is None or not isfinite(x) else "0" if abs(x) < TOLERANCE else f"{x:.3g}"


def meaning(verdict: Verdict) -> str:
    """What the expected gradient is, in words."""
    if not verdict.kept:
        return f"BROKEN: it promises {verdict.target or 'the true gradient'} and is not"
    if verdict.kind == "exact":
        return "exact"
    if verdict.kind == "other":
        return f"exactly that of {verdict.target}"
    return f"{verdict.kind}: {'; '.join(verdict.reasons)}"


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """Print one table a section."""
    for section, some in sections(verdicts):
        few = all(len(verdict.gradient) <= FEW for verdict in some) and any(verdict.gradient for verdict in some)
        table = Table(title=section, title_justify="left", title_style="bold", expand=False, padding=(0, 1))
        for name in COLUMNS:
            right = name in COLUMNS[1:5]
            table.add_column(name, justify="right" if right else "left", no_wrap=right)
        if few:
            table.add_column("in the logits", no_wrap=True)
        for verdict in some:
            *cells, words = row(verdict)
            colour = COLOURS[verdict.kind] if verdict.kept else "bold white on red"
            logits = [" ".join(f"{x + 0.0:9.6f}" for x in verdict.gradient)] if few else []
            table.add_row(*map(Text, cells), Text(words, style=colour), *logits)
        console.print(table)


def markdown(verdicts: Sequence[Verdict]) -> str:
    """One table, a section a row in bold."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|--:|--:|--:|--:|---|"]
    for section, some in sections(verdicts):
        lines.append(f"| **{section}** | | | | | |")
        for verdict in some:
            name, *cells = row(verdict)
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def show_differences(found: Sequence[Difference], console: Console) -> None:
    """Print how far each loss is from its finite differences."""
    table = Table(title="Finite differences of every loss", title_justify="left", title_style="bold")
    table.add_column("loss")
    table.add_column("largest error", justify="right")
    for one in found:
        table.add_row(Text(one.name), Text(f"{one.error:.1e}", style="green" if one.kept else "bold white on red"))
    console.print(table)


def as_json(verdicts: Iterable[Verdict], found: Iterable[Difference]) -> str:
    """All numbers, those that are not finite as null."""
    cells = [{name: finite(x) for name, x in asdict(verdict).items()} for verdict in verdicts]
    return json.dumps({"cells": cells, "differences": [asdict(one) for one in found]}, indent=1, allow_nan=False)


def finite(x: object) -> object:
    """None for a number that is not."""
    return None if isinstance(x, float) and not isfinite(x) else x


def sections(verdicts: Sequence[Verdict]) -> list[tuple[str, list[Verdict]]]:
    """In the order of their first cell."""
    return [(name, list(some)) for name, some in groupby(verdicts, key=lambda verdict: verdict.section)]
