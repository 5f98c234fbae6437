"""Student's t distribution with a whole number of degrees of freedom: a finite sum (Abramowitz and Stegun 26.7.3-4)."""

from __future__ import annotations

import math

NORMAL_FROM = 5000
"""Degrees of freedom from which the normal distribution takes over: quantiles differ by less than 1 in 1,000."""


def within(t: float, freedom: int) -> float:
    """The probability of a value between -t and t. Raises `ValueError` below one degree of freedom.

    >>> round(within(1.0, 1), 6), round(within(4.302653, 2), 6), round(within(2.776445, 4), 6)
    (0.5, 0.95, 0.95)
    """
    if freedom < 1 or t < 0:
        raise ValueError(f"a t distribution needs at least 1 degree of freedom and t from 0 on, got {freedom=}, {t=}")
    if math.isinf(t):
        return 1.0
    if freedom >= NORMAL_FROM:
        return math.erf(t / math.sqrt(2))
    angle = math.atan(t / math.sqrt(freedom))
    cosine2 = math.cos(angle) ** 2
    odd = freedom % 2
    # Odd: cos + 2/3 cos^3 + 2*4/(3*5) cos^5 ...; even: 1 + 1/2 cos^2 + 1*3/(2*4) cos^4 ...; up to cos^(freedom - 2).
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine2 * (power + 1) / (power + 2)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def two_sided_p(t: float, freedom: int) -> float:
    """The probability of a value at least as far from 0 as `t`."""
    return max(0.0, 1 - within(abs(t), freedom))


def quantile(level: float, freedom: int) -> float:
    """The t that has `level` of the distribution between -t and t, by bisection.

    >>> [round(quantile(0.95, freedom), 3) for freedom in (1, 2, 4, 10, 100)]
    [12.706, 4.303, 2.776, 2.228, 1.984]
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    low, high = 0.0, 1.0
    while within(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return (low + high) / 2
