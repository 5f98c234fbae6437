"""Equality of plain numbers in a few microseconds: integers, decimals, fractions, percent, thousands separators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = r"(?:(?!0,)\d{1,3}(?:,\d{3})+|(?!0 )\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = re.compile(rf"([-+]?) ?({_DIGITS})?(?:\.(\d+)?)? ?(%?)", re.ASCII)
_RATIO = re.compile(r"([-+]?) ?(?:\\frac ?(?:\{ ?(-?\d+) ?\} ?\{ ?(-?\d+) ?\}|(\d)(\d))|(\d+) ?/ ?(-?\d+))", re.ASCII)
_DECIMAL_COMMA = re.compile(r"([-+]?) ?(\d+),(\d+)() ?(%?)", re.ASCII)
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
        return _decimal(*match.groups())
    match = _RATIO.fullmatch(text)
    return _ratio(match) if match else None


def with_decimal_comma(text: str) -> Number | None:
    """The number that a cleaned text is where `2,74` means 2.74; None where the comma groups thousands or lists."""
    match = _DECIMAL_COMMA.fullmatch(text) if len(text) <= MAX_CHARS else None
    if match is None or (len(match[3]) == 3 and not match[2].startswith("0")):
        return None
    sign, whole, decimals, _, percent = match.groups()
    return _decimal(sign, whole, decimals, percent)


def _decimal(sign: str, whole: str | None, decimals: str | None, percent: str) -> Number:
    digits = (whole or "0").replace(",", "").replace(" ", "")
    if not decimals:
        return Number(Fraction(int(sign + digits)), None, bool(percent))
    value = Fraction(int(sign + digits + decimals), 10 ** len(decimals))
    return Number(value, len(decimals), bool(percent))


def _ratio(match: re.Match[str]) -> Number | None:
    sign, *groups = match.groups()
    above, below = (int(group) for group in groups if group is not None)
    if below == 0:
        return None
    return Number(Fraction(-above if sign == "-" else above, below))


def numbers_equal(key: Number, answer: Number, decimals: int | None = None) -> bool:
    """Whether `answer` is the number `key`. `50%` is 1/2, and also what a key or an answer of 50 means by it.

    `decimals`: so many digits after the point suffice where one stands for a more exact number.
    """
    if key.percent != answer.percent:
        other = key if answer.percent else answer
        written = answer if answer.percent else key
        as_share = Number(written.value / 100, None if written.decimals is None else written.decimals + 2)
        pair = (other, as_share) if answer.percent else (as_share, other)
        return close(*pair, decimals) or key.value == answer.value
    return close(key, answer, decimals)


def close(key: Number, answer: Number, decimals: int | None = None) -> bool:
    """Equal, or one is the other rounded: the key to its own decimals, the answer only where the key has none."""
    if key.value == answer.value:
        return True
    if key.decimals is not None:
        more_exact = answer.decimals is None or answer.decimals > key.decimals
        return more_exact and rounds_to(answer.value, key, decimals)
    return answer.decimals is not None and rounds_to(key.value, answer, decimals)


def rounds_to(value: Fraction, rounded: Number, decimals: int | None = None) -> bool:
    """Whether `rounded` has enough digits and lies within half a unit of its last decimal of `value`."""
    unit = 10 ** (rounded.decimals or 0)
    digits = len(str(abs(rounded.value * unit).numerator))
    enough = digits >= MIN_ROUNDED_DIGITS or (decimals is not None and (rounded.decimals or 0) >= decimals)
    return enough and abs(value - rounded.value) * 2 * unit <= 1
