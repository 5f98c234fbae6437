"""Equality of plain numbers in some ten microseconds: integers, decimals, fractions, percent, thousands separators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = re.compile(rf"([-+]?) ?({_DIGITS})?(?:\.(\d+)?)? ?(%?)", re.ASCII)
_RATIO = re.compile(r"([-+]?) ?(?:\\frac ?(?:\{ ?(-?\d+) ?\} ?\{ ?(-?\d+) ?\}|(\d)(\d))|(\d+) ?/ ?(-?\d+))", re.ASCII)
MAX_CHARS = 400
MIN_ROUNDED_DIGITS = 4
"""A decimal may stand for a more exact number only with this many significant digits: 0.33 is not 1/3."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    value: Fraction
    decimals: int | None = None
    """Digits after the point; None when there is no point."""
    percent: bool = False


def number(text: str) -> Number | None:
    """The number that a cleaned text is, or None. Linear; texts over 400 characters are left to the parser."""
    if len(text) > MAX_CHARS:
        return None
    match = _DECIMAL.fullmatch(text)
    if match and (match[2] or match[3]):
        return _decimal(match)
    match = _RATIO.fullmatch(text)
    return _ratio(match) if match else None


def _decimal(match: re.Match[str]) -> Number:
    sign, whole, decimals, percent = match.groups()
    digits = (whole or "0").replace(",", "").replace(" ", "")
    value = Fraction(int(digits + (decimals or "")), 10 ** len(decimals or ""))
    return Number(-value if sign == "-" else value, len(decimals) if decimals else None, bool(percent))


def _ratio(match: re.Match[str]) -> Number | None:
    sign, *groups = match.groups()
    above, below = (int(group) for group in groups if group is not None)
    if below == 0:
        return None
    return Number(Fraction(-above if sign == "-" else above, below))


def numbers_equal(key: Number, answer: Number) -> bool:
    """Whether `answer` is the number `key`. `50%` is 1/2, and also what a key or an answer of 50 means by it."""
    if key.percent != answer.percent:
        other = key if answer.percent else answer
        written = answer if answer.percent else key
        as_share = Number(written.value / 100, None if written.decimals is None else written.decimals + 2)
        pair = (other, as_share) if answer.percent else (as_share, other)
        return close(*pair) or key.value == answer.value
    return close(key, answer)


def close(key: Number, answer: Number) -> bool:
    """Equal, or one is the other rounded: the key to its own decimals, the answer only where the key has none."""
    if key.value == answer.value:
        return True
    if key.decimals is not None:
        more_exact = answer.decimals is None or answer.decimals > key.decimals
        return more_exact and rounds_to(answer.value, key)
    return answer.decimals is not None and rounds_to(key.value, answer)


def rounds_to(value: Fraction, rounded: Number) -> bool:
    """Whether `rounded` has enough digits and lies within half a unit of its last decimal of `value`."""
    unit = 10 ** (rounded.decimals or 0)
    digits = len(str(abs(rounded.value * unit).numerator))
    return digits >= MIN_ROUNDED_DIGITS and abs(value - rounded.value) * 2 * unit <= 1
