"""Equations, inequalities and chains of them; what they say of one unknown is an interval, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from sympy import Add, Expr, Integer, Mul

from rewards.math.budgets import approximate
from rewards.math.exact import Number
from rewards.math.numeric import as_fraction, digits_needed, is_real, near, value_at
from rewards.math.tokens import ParseError, Token
from rewards.math.tree import Answer
from rewards.math.units import split_unit
from rewards.math.values import computes, formula, infinity, is_name, name_of, named, negated, value

RELATIONS = ("=", "<", ">", "<=", ">=", "!=")
_FLIPPED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
Tokens = list[Token]


def relation(sides: Sequence[Tokens], signs: Sequence[str], read: Callable[[Tokens], Answer]) -> Answer:
    """What sides with relations between them say; `read` reads the side that is the answer. Raises `ParseError`."""
    if all(sign == "=" for sign in signs):
        return _equation(sides, read)
    *before, last = sides
    last, unit = split_unit(last)
    sides = [*before, last]
    if len(signs) == 1:
        return replace(_single(sides, signs[0]), unit=unit)
    if not {sign[0] for sign in signs} <= {"<"}:
        if not {sign[0] for sign in signs} <= {">"}:
            raise ParseError("a chain of relations must point in one direction")
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    items = tuple(value(side) for side in sides)
    return Answer("chain", items, " ".join(signs), unit=unit, interval=_between(sides, items, signs))


def _equation(sides: Sequence[Tokens], read: Callable[[Tokens], Answer]) -> Answer:
    """`x = 5` and `x = 2 + 3 = 5` say 5, as `6 * 7 = 42` says 42; others relate unknowns."""
    first, last = sides[0], sides[-1]
    if len(sides) == 2 and is_name(last) and not is_name(first):
        first, last = last, first
    if not first:
        return read(last)
    if is_name(first) and not computes(first) and not _is_absolute(first):
        answer = read(last)
        return replace(answer, name=name_of(first), named=named(first))
    if len(sides) > 2 or _has_unit(first) or _has_unit(last):
        return read(last)
    left, right = formula(first), formula(last)
    if not (left.free_symbols or right.free_symbols):
        answer = read(last)
        _refuse_disagreement(left, right, answer.number)
        return answer
    return Answer("relation", detail="=", expression=_difference(left, right))


def _has_unit(tokens: Tokens) -> bool:
    return any(token.kind == "unit" for token in tokens)


def _refuse_disagreement(left: Expr, right: Expr, written: Number | None) -> None:
    """Raise `ParseError` for `41 = 42`, which says both; a number rounded, `2/3 = 0.667`, is no other one."""
    digits = digits_needed(left, right)
    at_left, at_right = value_at(left, digits), value_at(right, digits)
    if at_left is None or at_right is None or near(at_left, at_right, digits):
        return
    exact = as_fraction(at_left[0]) if is_real(at_left) else None
    is_rounded = written is not None and written.decimals and not written.percent
    if exact is None or not is_rounded or abs(exact - written.value) * 2 * 10**written.decimals > 1:  # type: ignore
        raise ParseError("the sides of an equation of numbers differ")


def _single(sides: Sequence[Tokens], sign: str) -> Answer:
    (left, right), ray = map(formula, sides), _ray(sides[0], sides[1], sign)
    if sign in (">", ">="):
        return Answer("relation", detail=_FLIPPED[sign], expression=_difference(right, left), interval=ray)
    return Answer("relation", detail=sign, expression=_difference(left, right), interval=ray)


def _difference(left: object, right: object) -> Add:
    return Add(left, Mul(Integer(-1), right, evaluate=False), evaluate=False)


def _ray(left: Tokens, right: Tokens, sign: str) -> Answer | None:
    """Where `x` lies in `x > 5`, `5 > x`, `|x| < 5` or `x != 5`; None for relations of another form."""
    if is_name(right) and not is_name(left):
        left, right, sign = right, left, _FLIPPED.get(sign, sign)
    if not is_name(left) or computes(left):
        return None
    end = value(right)
    if end.expression is None or end.expression.free_symbols:
        return None
    closed, ends = sign.endswith("="), (negated(end), end) if _is_absolute(left) else (end, end)
    if sign in ("<", "<="):
        low = ends[0] if _is_absolute(left) else infinity(-1)
        return interval(low, end, closed and _is_absolute(left), closed)
    below, above = interval(infinity(-1), ends[0], False, closed), interval(end, infinity(1), closed, False)
    if sign == "!=":
        return Answer("union", (replace(below, detail="()"), replace(above, detail="()")))
    return Answer("union", (below, above)) if _is_absolute(left) else above


def reals() -> Answer:
    """From minus infinity to infinity."""
    return interval(infinity(-1), infinity(1), False, False)


def without_points(whole: Answer, points: Answer, *more: Answer) -> Answer | None:
    r"""The intervals that `\mathbb{R} \setminus \{1, 2\}` leaves; None of another difference."""
    numbers = [(item, item.expression) for item in points.items if points.kind == "set" and item.kind == "value"]
    if more or whole != reals() or not numbers or len(numbers) < len(points.items):
        return None
    if not all(expression is not None and expression.is_extended_real for _, expression in numbers):
        return None
    ends = [item for item, _ in sorted(numbers, key=lambda number: approximate(number[1]).real)]
    borders = [infinity(-1), *ends, infinity(1)]
    return Answer("union", tuple(interval(low, high, False, False) for low, high in pairwise(borders)))


def _between(sides: Sequence[Tokens], items: Sequence[Answer], signs: Sequence[str]) -> Answer | None:
    """Where `x` lies in `1 <= x < 5` and `1 <= |x| < 5`."""
    if len(sides) != 3 or not is_name(sides[1]):
        return None
    low, _, high = items
    closed = [sign.endswith("=") for sign in signs]
    inner = interval(low, high, *closed)
    if not _is_absolute(sides[1]):
        return inner
    return Answer("union", (interval(negated(high), negated(low), *closed[::-1]), inner))


def _is_absolute(tokens: Tokens) -> bool:
    """`|x|`; two points between bars, `|AB|`, are a distance."""
    is_distance = len(tokens) == 3 and len(tokens[1].text) > 1 and tokens[1].text.isupper()
    return len(tokens) == 3 and tokens[0].text == tokens[2].text == "|" and not is_distance


def interval(low: Answer, high: Answer, low_closed: bool, high_closed: bool) -> Answer:
    """An interval as the tuple that its brackets make."""
    return Answer("tuple", (low, high), "(["[low_closed] + ")]"[high_closed])
