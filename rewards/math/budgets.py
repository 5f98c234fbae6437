"""Nodes whose value could be too large to work with: refused before anything is evaluated."""

from __future__ import annotations

import math
from fractions import Fraction

import sympy
from sympy import Add, Expr, Integer, Mul, Pow, Rational

from rewards.math.tokens import ParseError

MAX_DEPTH = 50
MAX_TOKENS = 500
MAX_NUMBER_DIGITS = 400
MAX_LOG10 = 1e4
MAX_FACTORIAL = 1000
MAX_SYMBOLIC_EXPONENT = 1000
MAX_DEGREE = 10
"""Of what stands in an exponent or a factorial: `e^{x^{10}}`."""
NESTED = 3
"""The growth of a power in a power, `2^{2^n}`; more are refused."""


def literal(text: str) -> Rational:
    """The value of digits with at most one point, and `0.1|6` for a 1 and then sixes without end."""
    if len(text) > MAX_NUMBER_DIGITS:
        raise ParseError(f"a number may have {MAX_NUMBER_DIGITS} digits, got {len(text)}")
    text, _, repeated = text.partition("|")
    whole, _, decimals = text.partition(".")
    value = Fraction(int((whole or "0") + decimals), 10 ** len(decimals))
    if repeated:
        value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(decimals))
    return Rational(value.numerator, value.denominator)


def power(base: Expr, exponent: Expr) -> Expr:
    """`base ** exponent`, unevaluated; raises `ParseError` where its value would be too large to write down."""
    if not exponent.is_number:
        if growth(exponent) > 1 or degree(exponent) > MAX_DEGREE:
            raise ParseError(f"exponents may stand two high and have degree {MAX_DEGREE}")
    elif not base.is_number:
        size = abs(approximate(exponent))
        if size > MAX_SYMBOLIC_EXPONENT:
            raise ParseError(f"an exponent of an unknown may be {MAX_SYMBOLIC_EXPONENT}, got {size:g}")
    elif log10_of_power(base, exponent) > MAX_LOG10:
        raise ParseError(f"a power may have {MAX_LOG10:g} digits")
    return Pow(base, exponent, evaluate=False)


def log10_of_power(base: Expr, exponent: Expr) -> float:
    """The number of digits of a power of numbers, before or behind the point; infinite when it cannot be told."""
    if isinstance(exponent, Pow) and isinstance(exponent.base, Integer) and exponent.exp == -1:
        return 0.0  # a root
    size, value = abs(approximate(exponent)), abs(approximate(base))
    digits = abs(math.log10(value)) if value else 0.0
    return size * digits if size > 1 else 0.0


def approximate(value: Expr) -> complex:
    """A float near `value`; raises `ParseError` where it has none."""
    try:
        return complex(value) if isinstance(value, Rational) else complex(value.evalf(5))
    except (TypeError, OverflowError, ValueError) as error:
        raise ParseError("a number is too large or undefined") from error


def degree(expression: Expr) -> float:
    """How fast an expression grows with its unknowns, as the degree of a polynomial."""
    if expression.is_number or not expression.args:
        return float(expression.is_Symbol)
    degrees = [degree(part) for part in expression.args]
    if isinstance(expression, Pow) and expression.exp.is_number:
        return degrees[0] * abs(approximate(expression.exp))
    return max(degrees) if isinstance(expression, Add) else sum(degrees)


def growth(expression: Expr) -> float:
    """The highest degree in an exponent; 0 where none has an unknown, and 3 for exponents in exponents."""
    if expression.is_number or not expression.args:
        return 0.0
    inner = max(growth(part) for part in expression.args)
    if isinstance(expression, Pow):
        if expression.exp.is_number:
            return inner
        return max(inner, degree(expression.exp), NESTED if growth(expression.exp) else 0.0)
    if isinstance(expression, sympy.sinh | sympy.cosh | sympy.tanh):
        return max(degree(expression), NESTED if inner else 0.0)
    return max(inner, degree(expression) + 1) if isinstance(expression, sympy.factorial) else inner


def factorial(value: Expr) -> Expr:
    """`value!`, unevaluated; of an integer up to 1000, or of unknowns that grow slowly."""
    if value.is_number:
        if not isinstance(value, Integer) or not 0 <= int(value) <= MAX_FACTORIAL:
            raise ParseError(f"a factorial may be of an integer up to {MAX_FACTORIAL}")
    elif growth(value) or degree(value) > MAX_DEGREE:
        raise ParseError(f"a factorial may be of an expression of degree {MAX_DEGREE} without unknown exponents")
    return sympy.factorial(value, evaluate=False)


def binomial(above: Expr, below: Expr) -> Expr:
    """The binomial coefficient, unevaluated, under the limits of its factorials."""
    if above.is_number and below.is_number:
        if not all(isinstance(value, Integer) and 0 <= int(value) <= MAX_FACTORIAL for value in (above, below)):
            raise ParseError(f"a binomial may be of integers up to {MAX_FACTORIAL}")
        return sympy.binomial(above, below, evaluate=False)
    difference = Add(above, Mul(Integer(-1), below, evaluate=False), evaluate=False)
    divisor = Mul(factorial(below), factorial(difference), evaluate=False)
    return Mul(factorial(above), Pow(divisor, Integer(-1), evaluate=False), evaluate=False)
