"""Equality of expressions by value: at enough digits to see the smallest part written, and at random points.

No algebra is done: what `simplify` would take nobody knows. A plain tolerance would call `2^{-99}` and
`2^{-98}` the same, and `x` and `x + 10^{-40}`: here the digits grow with what the texts can hide. Functions are
compared at points of three sizes and both signs, drawn anew for each pair, and must agree wherever both are real.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence, Set
from fractions import Fraction

import mpmath
import sympy
from sympy import Expr, Pow, Rational, Symbol, preorder_traversal

from rewards.math.budgets import approximate, growth, log10_of_power
from rewards.math.tokens import ParseError

DIGITS = 30
MAX_DIGITS = 3000
MIN_AGREED = 2
_SMALL, _MIDDLE, _LARGE = (0.3, 3.0), (5.0, 50.0), (100.0, 9999.0)
_DENOMINATOR = 1009
_MAX_EXPONENT_BITS = 20_000
Value = tuple[mpmath.mpf, mpmath.mpf]


def digits_needed(*expressions: Expr) -> int:
    """Digits that show the smallest part of what is written; raises `ParseError` above 3000."""
    digits = DIGITS + sum(_size(node) for expression in expressions for node in preorder_traversal(expression))
    if not digits <= MAX_DIGITS:
        raise ParseError(f"a comparison may take {MAX_DIGITS} digits")
    return math.ceil(digits)


def _size(node: Expr) -> float:
    """How many digits a part may add before or behind the point."""
    if isinstance(node, Rational):
        return (math.log10(abs(node.p)) if node.p else 0.0) + math.log10(node.q)
    if not node.args or not node.is_number:
        return 0.0
    if isinstance(node, Pow):
        return log10_of_power(node.base, node.exp)
    if isinstance(node, sympy.factorial | sympy.binomial):
        size = max(abs(approximate(argument)) for argument in node.args)
        return size * math.log10(size + 1)
    if isinstance(node, sympy.sinh | sympy.cosh | sympy.tanh):
        return max(abs(approximate(argument)) for argument in node.args)
    return 0.0


def value_at(expression: Expr, digits: int, point: dict[Symbol, Rational] | None = None) -> Value | None:
    """The real and imaginary part; None for what is not finite."""
    number = expression.evalf(digits, subs=point, maxn=3 * digits + 100)
    if isinstance(number, sympy.Float | Rational):
        parts = (number, sympy.Integer(0))
    elif number.is_number:
        parts = number.as_real_imag()
    else:
        return None
    if not all(isinstance(part, sympy.Float | Rational) for part in parts):
        return None
    with mpmath.workdps(digits + 10):
        real, imaginary = (_mpf(part) for part in parts)
    return (real, imaginary) if mpmath.isfinite(real) and mpmath.isfinite(imaginary) else None


def _mpf(part: sympy.Float | Rational) -> mpmath.mpf:
    return mpmath.mpf(part) if isinstance(part, sympy.Float) else mpmath.mpf(int(part.p)) / int(part.q)


def near(first: Value, second: Value, digits: int) -> bool:
    """Whether two values agree to all but the last 10 of these digits, relative to the larger one."""
    with mpmath.workdps(digits + 10):
        tolerance = max(abs(part) for part in (*first, *second)) * mpmath.mpf(10) ** (10 - digits)
        return all(abs(a - b) <= tolerance for a, b in zip(first, second, strict=True))


def is_real(value: Value) -> bool:
    """Whether the imaginary part is nothing but rounding."""
    return abs(value[1]) <= abs(value[0]) * mpmath.mpf(10) ** (10 - DIGITS)


def as_fraction(value: mpmath.mpf) -> Fraction | None:
    """The value exactly; None where it would not fit in memory."""
    mantissa, exponent = value.man_exp
    if abs(exponent) > _MAX_EXPONENT_BITS:
        return None
    return Fraction(abs(int(mantissa)) * (-1 if value < 0 else 1)) * Fraction(2) ** int(exponent)


def same_function(key: Expr, answer: Expr, seed: str) -> bool:
    """Whether two expressions with unknowns agree at random points; `seed` decides which."""
    complex_values = key.has(sympy.I) or answer.has(sympy.I)
    digits, agreed = digits_needed(key, answer), 0
    for at_key, at_answer in _values(key, answer, digits, seed):
        if near(at_key, at_answer, digits):
            agreed += 1
        elif complex_values or (is_real(at_key) and is_real(at_answer)):
            return False
    return agreed >= MIN_AGREED


def constant_ratio(key: Expr, answer: Expr, seed: str) -> mpmath.mpf | None:
    """`key / answer` where it is the same real number everywhere, and not 0; else None."""
    digits = digits_needed(key, answer)
    found: list[Value] = []
    for at_key, at_answer in _values(key, answer, digits, seed):
        with mpmath.workdps(digits + 10):
            if not (is_real(at_key) and is_real(at_answer)):
                continue
            if not (at_key[0] and at_answer[0]):
                return None
            found.append((at_key[0] / at_answer[0], mpmath.mpf(0)))
        if not near(found[0], found[-1], digits):
            return None
    return found[0][0] if len(found) >= MIN_AGREED else None


def _values(key: Expr, answer: Expr, digits: int, seed: str) -> Iterator[tuple[Value, Value]]:
    """The two values at each point where both have one."""
    symbols = key.free_symbols | answer.free_symbols
    sizes = _sizes(max(growth(key), growth(answer)), digits)
    points = [*_points(symbols, sizes, random.Random(seed))]
    if key.has(sympy.floor, sympy.ceiling) or answer.has(sympy.floor, sympy.ceiling):  # they differ at integers alone
        points += [{symbol: sympy.Integer(int(number)) for symbol, number in point.items()} for point in points]
    for point in points:
        at_key, at_answer = value_at(key, digits, point), value_at(answer, digits, point)
        if at_key is not None and at_answer is not None:
            yield at_key, at_answer


def _sizes(fastest: float, digits: int) -> list[tuple[float, float]]:
    """Unknowns grow as far as the fastest power allows; without one, beyond every number written: `|x - 10^6|`."""
    if fastest > 2:
        return [_SMALL]
    if fastest > 1:
        return [_SMALL, _MIDDLE]
    beyond = 10 ** (digits - DIGITS + 1)
    return [_SMALL, _MIDDLE, _LARGE if fastest else (beyond, 10 * beyond)]


def _points(
    symbols: Set[Symbol], sizes: Sequence[tuple[float, float]], generator: random.Random
) -> Iterator[dict[Symbol, Rational]]:
    """Two points of each size: one with all unknowns positive, one with a negative one among them."""
    ordered = sorted(symbols, key=str)
    for low, high in sizes:
        for signed in (False, True):
            numbers = [generator.randint(int(low * _DENOMINATOR), int(high * _DENOMINATOR)) for _ in ordered]
            if signed:
                numbers = [number * generator.choice((-1, 1)) for number in numbers]
                place = generator.randrange(len(numbers))
                numbers[place] = -abs(numbers[place])
            yield {symbol: Rational(number, _DENOMINATOR) for symbol, number in zip(ordered, numbers, strict=True)}
