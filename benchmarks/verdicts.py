"""Who is better, in words: paired comparisons of agents, corrected for their number (Holm, Scand. J. Stat. 6, 1979)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.bootstrap import Estimate, bounded, estimate
from benchmarks.reaching import AMOUNTS, pair
from benchmarks.run_result import RunResult, greedy_by_problem, ks, pass_at_by_problem

LARGEST = 30 * math.log(10)
"""Of the logarithms of ratios."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two agents in one quantity, over the seeds that both have run."""

    first: str
    second: str
    quantity: str
    """`held-out accuracy`, `pass@8`, `tokens to 0.9`, ..."""
    estimate: Estimate
    """Second minus first; for amounts of tokens and seconds the logarithm of second over first."""
    is_ratio: bool = False
    bound: str = ""
    """`at most`, `at least`, `undetermined`: what censored runs leave of a ratio."""
    p_corrected: float | None = None
    """After Holm's correction for all pairs of this quantity."""
    num_pairs: int = 1
    level: float = 0.95

    @property
    def winner(self) -> str | None:
        """Who is better, if that can be said."""
        if self.p_corrected is None or self.p_corrected > 1 - self.level + 1e-12 or self.estimate.mean == 0:
            return None
        return self.second if (self.estimate.mean > 0) != self.is_ratio else self.first

    def record(self) -> dict[str, Any]:
        """For the JSON."""
        e = self.estimate
        numbers = {"estimate": e.mean, "low": e.low, "high": e.high}
        if self.is_ratio:
            numbers = {name: None if x is None else ratio_of(x) for name, x in numbers.items()}
        return {
            "first": self.first,
            "second": self.second,
            "quantity": self.quantity,
            "is_ratio": self.is_ratio,
            **numbers,
            "p": e.p,
            "p_holm": self.p_corrected,
            "num_pairs": self.num_pairs,
            "level": self.level,
            "num_seeds": e.num_seeds,
            "num_problems": e.num_problems,
            "bound": self.bound,
            "winner": self.winner,
            "words": words(self),
        }


def compare_all(
    runs: Sequence[RunResult], names: Sequence[str], *, target: float, level: float, draws: int
) -> list[Comparison]:
    """Every pair of agents in every quantity, the first agent's pairs first; Holm's correction within a quantity."""
    pairs = list(combinations(names, 2))
    found = [c for a, b in pairs for c in compare(runs, a, b, target=target, level=level, draws=draws)]
    quantities = dict.fromkeys(c.quantity for c in found)
    return [c for quantity in quantities for c in correct([c for c in found if c.quantity == quantity])]


def compare(
    runs: Sequence[RunResult], first: str, second: str, *, target: float, level: float, draws: int
) -> list[Comparison]:
    """Two agents in every quantity that can be compared; none where they share no seed."""
    by_seed = [{run.seed: run for run in runs if run.name == name} for name in (first, second)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    if not seeds:
        return []
    a, b = ([some[seed] for seed in seeds] for some in by_seed)
    differences = {"held-out accuracy": greedy_by_problem(b) - greedy_by_problem(a)}
    differences |= {f"pass@{k}": pass_at_by_problem(b, k) - pass_at_by_problem(a, k) for k in shown_ks(a)}
    out = [
        Comparison(first, second, quantity, difference(values, level, draws), level=level)
        for quantity, values in differences.items()
    ]
    for name in AMOUNTS:
        found = pair([run.reach(target) for run in a], [run.reach(target) for run in b], name)
        if found is not None:
            log_ratio = estimate(np.array(found.log_ratios)[:, None], level=level, draws=draws)
            quantity = f"{name} to {target:g}"
            out.append(Comparison(first, second, quantity, log_ratio, is_ratio=True, bound=found.bound, level=level))
    return out


def shown_ks(runs: Sequence[RunResult]) -> list[int]:
    """The k of pass@k that get a verdict: one sample, and as many as there are."""
    every = ks(runs)
    return every if len(every) < 2 else [every[0], every[-1]]


def difference(values: Float[np.ndarray, "S M"], level: float, draws: int) -> Estimate:
    """Of shares."""
    return bounded(estimate(values, level=level, draws=draws), -1.0, 1.0, level=level)


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """With Holm's correction for their number."""
    corrected = holm([c.estimate.p for c in comparisons])
    count = sum(p is not None for p in corrected)
    return [replace(c, p_corrected=p, num_pairs=count) for c, p in zip(comparisons, corrected, strict=True)]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Each p after Holm's step-down correction: the chance that any of them is a false alarm stays below the level.

    >>> holm([0.01, 0.04, 0.03, None])
    [0.03, 0.06, 0.06, None]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        out[i] = largest
    return out


def words(c: Comparison) -> str:
    """A verdict for people."""
    e = c.estimate
    if e.p is None:
        return (
            f"One seed cannot tell `{c.first}` and `{c.second}` from their luck in {c.quantity}: `{c.second}` has "
            f"{size(c)} on these problems. Run at least 3 seeds."
        )
    p = f"p {p_words(c.p_corrected)}" + (f" after Holm's correction for {c.num_pairs} pairs" if c.num_pairs > 1 else "")
    interval = f"{c.level:.0%} interval {interval_words(c)}; {p}"
    if c.winner is not None:
        return f"`{c.winner}` is better than `{loser(c)}` in {c.quantity}: {size(c, toward=c.winner)} ({interval})."
    nobody = f"No significant difference between `{c.first}` and `{c.second}` in {c.quantity}"
    return f"{nobody}: {size(c)} ({interval}). {unseen(c)}"


def ratio_of(logarithm: float) -> float:
    """The ratio itself, from 1e-30 to 1e30: the interval of two seeds at a high level ends beyond any number.

    >>> ratio_of(0.0), round(ratio_of(1e9) / 1e30)
    (1.0, 1)
    """
    return math.exp(max(-LARGEST, min(logarithm, LARGEST)))


def times(ratio: float) -> str:
    """A ratio as one writes it.

    >>> times(1.304), times(0.0004), times(123_456.0)
    ('1.30', '4e-04', '1e+05')
    """
    return f"{ratio:.2f}" if 0.01 <= ratio < 1000 else f"{ratio:.0e}"


def loser(c: Comparison) -> str:
    """The other one."""
    return c.first if c.winner == c.second else c.second


def size(c: Comparison, toward: str | None = None) -> str:
    """The difference itself."""
    if c.is_ratio:
        bound = f"{c.bound} " if c.bound in ("at most", "at least") else ""
        note = " (cut off where runs ended; both have runs that never reached it)" if c.bound == "undetermined" else ""
        return f"`{c.second}` takes {bound}{times(ratio_of(c.estimate.mean))} times what `{c.first}` takes{note}"
    if toward is not None:
        return f"by {abs(c.estimate.mean):.3f}"
    return f"`{c.second}` - `{c.first}` = {c.estimate.mean:+.3f}"


def interval_words(c: Comparison) -> str:
    """From where to where, in the direction in which `size` tells it."""
    low, high = c.estimate.low, c.estimate.high
    assert low is not None
    assert high is not None
    if c.is_ratio:
        return f"{times(ratio_of(low))} to {times(ratio_of(high))}"
    if c.winner is None:
        return f"{low:+.3f} to {high:+.3f}"
    return f"{low:.3f} to {high:.3f}" if c.winner == c.second else f"{-high:.3f} to {-low:.3f}"


def unseen(c: Comparison) -> str:
    """What a verdict of no difference leaves open."""
    e = c.estimate
    assert e.low is not None
    assert e.high is not None
    seen = f"{e.num_seeds} seeds" + (f" and {e.num_problems} problems" if e.num_problems > 1 else "")
    if e.error == 0:
        same = f"They did the same on all {seen}."
        return same if e.mean == 0 else f"All {seen} say the same, and so few may do so by chance."
    alone = "The interval alone leaves out 0, the correction does not. " if e.low > 0 or e.high < 0 else ""
    half = (e.high - e.low) / 2
    if c.is_ratio:
        return f"{alone}With {seen}, less than a factor of about {times(ratio_of(half))} could not be seen."
    return f"{alone}With {seen}, less than about {half:.3f} could not be seen."


def p_words(p: float | None) -> str:
    """A p as one writes it.

    >>> p_words(0.0312), p_words(0.00001)
    ('= 0.031', '< 0.001')
    """
    assert p is not None
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
