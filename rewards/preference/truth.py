"""Rankings drawn from known worths, and how well they can be predicted at all.

A judge with Plackett-Luce's noise: adding Gumbel noise to the worths and sorting draws from it (Yellott 1977); of two
responses it is Bradley-Terry's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Attainable:
    """What someone who knows the worths reaches on pairs of drawn rankings: Bayes' figures."""

    pairs: int
    accuracy: float
    """Share of pairs of which the worthier response was ranked higher; equal worths count half."""
    nll: float
    """Mean negative log-likelihood, in nats a pair."""


def draw_ranking(worths: Sequence[float], *, temperature: float, generator: random.Random) -> list[int]:
    """The numbers of the responses, best first. The higher the temperature (above 0), the less the worths say."""
    noisy = [worth / temperature - math.log(-math.log(_open_uniform(generator))) for worth in worths]
    return sorted(range(len(worths)), key=lambda number: -noisy[number])


def attainable(rankings: Iterable[Sequence[float]], *, temperature: float) -> Attainable:
    """Of rankings, each given as the worths of its responses, best first as drawn. Raises `ValueError` for no pair.

    >>> found = attainable([(2.0, 1.0), (0.0, math.log(3))], temperature=1.0)
    >>> found.accuracy, round(found.nll, 4) == round((0.313262 + math.log(4)) / 2, 4)
    (0.5, True)
    """
    gaps = [(above - below) / temperature for worths in rankings for above, below in combinations(worths, 2)]
    if not gaps:
        raise ValueError("rankings must hold at least one pair, got none")
    right = sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps)
    nll = sum(math.log1p(math.exp(-abs(gap))) + max(0.0, -gap) for gap in gaps)
    return Attainable(len(gaps), right / len(gaps), nll / len(gaps))


def _open_uniform(generator: random.Random) -> float:
    """Above 0 and below 1."""
    return generator.random() or math.ulp(0.0)
