"""Who learns more from the same number of generated tokens: held-out accuracies compared seed by seed.

The peer's examinations say where, and the end of ours where that comes first; between examinations accuracy is read
by a straight line. A comparison is made over the seeds that both have run; the untrained policy, the first examination,
is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.bootstrap import Estimate, bounded, estimate

Points = Sequence[Mapping[str, float]]
"""`num_tokens` and `eval/accuracy` of each examination of a run."""


@dataclass(frozen=True, slots=True)
class AtTokens:
    """Both after equal numbers of generated tokens, means over seeds."""

    examination: int | None
    """The peer's, from 1; None: all of them together, each seed's mean first."""
    tokens: float
    ours: float
    theirs: float
    difference: Estimate
    """Ours less theirs, over seeds."""

    def record(self) -> dict[str, Any]:
        """For the JSON."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """Of a row of the table."""
        e = self.difference
        interval = "-" if e.low is None or e.high is None else f"{e.low:+.3f} to {e.high:+.3f}"
        where = "all of them" if self.examination is None else str(self.examination)
        p = "-" if e.p is None else f"{e.p:.2f}"
        numbers = (f"{self.tokens:,.0f}", f"{self.ours:.3f}", f"{self.theirs:.3f}", f"{e.mean:+.3f}")
        return (where, str(e.num_seeds), *numbers, interval, p)


def at_equal_tokens(ours: Mapping[int, Points], theirs: Mapping[int, Points]) -> list[AtTokens]:
    """Each of the peer's examinations that at least one seed can be compared at, then all of them together; both by
    seed. Empty where there is nothing to compare."""
    by_seed = {seed: pairs(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())}
    by_seed = {seed: found for seed, found in by_seed.items() if found}
    if not by_seed:
        return []
    last = max(number for found in by_seed.values() for number in found)
    rows = [
        summary(number, [found[number] for found in by_seed.values() if number in found])
        for number in range(1, last + 1)
    ]
    means = [np.mean(list(found.values()), axis=0).tolist() for found in by_seed.values()]
    return [*rows, summary(None, means)]


def pairs(ours: Points, theirs: Points) -> dict[int, tuple[float, float, float]]:
    """Tokens, our accuracy and theirs, by the number of their examination; the last one is moved back to where ours
    ends, if that comes before it."""
    mine, other = read(ours), read(theirs)
    end, found = mine[0][-1], {}
    for number, (before, tokens) in enumerate(pairwise(other[0]), 1):
        if before < end:
            where = min(tokens, end)
            found[number] = (where, float(np.interp(where, *mine)), float(np.interp(where, *other)))
    return found


def read(points: Points) -> tuple[list[float], list[float]]:
    """Tokens and accuracies."""
    return [p["num_tokens"] for p in points], [p["eval/accuracy"] for p in points]


def summary(examination: int | None, seeds: Sequence[Sequence[float]]) -> AtTokens:
    """One row from tokens, our accuracy and theirs of each of S seeds."""
    tokens, ours, theirs = np.array(seeds).T
    difference = bounded(estimate((ours - theirs)[:, None]), -1.0, 1.0)
    return AtTokens(examination, float(tokens.mean()), float(ours.mean()), float(theirs.mean()), difference)


def table_lines(rows: Sequence[AtTokens]) -> list[str]:
    """In Markdown."""
    head = ("examination", "seeds", "tokens", "ours", "TRL's", "difference", "95 % interval", "p")
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
