"""How sure a mean over seeds and problems is: a bootstrap that resamples both, read with Student's t.

Every seed answers the same held-out problems, so the two are crossed, not nested: a draw takes seeds with replacement,
then problems with replacement, the same problems for all seeds (the pigeonhole bootstrap; Owen, Annals of Applied
Statistics 1(2), 2007). It takes S - 1 of S seeds and M - 1 of M problems, which makes the variance of the draws
unbiased where S is 3 and not 300 (Hesterberg, arXiv 1411.5279, section 3.3).

The interval is mean +- t x standard deviation of the draws, not their percentiles: percentiles of a few seeds never
reach beyond the seeds there are, and with 3 to 5 of them a 95 % interval covers the truth in 80 to 90 % of cases (the
tests measure it); so does BCa, which corrects for skewness and not for that. The degrees of freedom are Satterthwaite's,
rounded down: those of the seeds (S - 1) where seeds make the difference, more where problems do.

What it cannot see: it takes the seeds' means for a sample from something like a normal distribution. One seed in ten
that fails altogether is not in an interval from three seeds that did not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from benchmarks.student import quantile, two_sided_p

CHUNK = 1000
"""Draws at a time: memory, nothing else."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and how sure it is."""

    mean: float
    low: float | None
    """None: nothing can be said (a single number)."""
    high: float | None
    p: float | None
    """Two-sided, for a mean of 0; None where there is one seed, which cannot tell an agent from its luck."""
    error: float | None
    """The standard error."""
    num_seeds: int
    num_problems: int
    """1: the values were means already, and only seeds were resampled."""


def estimate(
    values: Float[np.ndarray, "S M"], *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """The mean of values of S seeds and M problems, with its interval.

    With one seed the interval is over problems alone and there is no p. Values that are all equal have an interval
    without width and p = 0, or 1 where they are 0. Raises `ValueError` where there are no values, or values that are
    not finite.
    """
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"values must be finite numbers of at least one seed and problem, got {values!r}")
    num_seeds, num_problems = values.shape
    mean = float(values.mean())
    if values.size == 1:
        return Estimate(mean, None, None, None, None, 1, 1)
    error = float(np.std(draw_means(values, draws, np.random.default_rng(seed))))
    # Draws of equal values differ in the last bits of their sums.
    error = 0.0 if error <= 1e-12 * max(1.0, abs(mean)) else error
    freedom = degrees_of_freedom(values)
    half = quantile(level, freedom) * error
    if num_seeds == 1:
        p = None
    elif error:
        p = two_sided_p(mean / error, freedom)
    else:
        p = 1.0 if mean == 0 else 0.0
    return Estimate(mean, mean - half, mean + half, p, error, num_seeds, num_problems)


def draw_means(
    values: Float[np.ndarray, "S M"], draws: int, generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """Means over seeds and problems that were drawn with replacement, one fewer of each than there are."""
    num_seeds, num_problems = values.shape
    means = []
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        seeds, problems = shares(num_seeds, count, generator), shares(num_problems, count, generator)
        means.append(np.einsum("bm,bm->b", seeds @ values, problems))
    return np.concatenate(means)


def shares(total: int, draws: int, generator: np.random.Generator) -> Float[np.ndarray, "draws total"]:
    """What share each of `total` has of a draw of `total - 1` with replacement; of one, all."""
    size = max(total - 1, 1)
    return generator.multinomial(size, np.full(total, 1 / total), size=draws) / size


def degrees_of_freedom(values: Float[np.ndarray, "S M"]) -> int:
    """Satterthwaite's (Biometrics Bulletin 2, 1946) for the sum of the variances from seeds and from problems, rounded
    down.

    >>> degrees_of_freedom(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))  # problems agree: only seeds count
    2
    """
    parts = [(values.mean(1 - axis), count - 1) for axis, count in enumerate(values.shape) if count > 1]
    variances = [(float(np.var(means, ddof=1)) / len(means), freedom) for means, freedom in parts]
    least = min(freedom for _, freedom in parts)
    below = sum(variance**2 / freedom for variance, freedom in variances)
    if below == 0:
        return least
    return max(least, math.floor(sum(variance for variance, _ in variances) ** 2 / below + 1e-9))
