"""Whether two answers are the same: by structure, by value at 30 digits, and by sympy's `simplify` where unknowns are.

Runs where it can be killed: no bound on `simplify` is known. A doubt is a no: a false yes teaches the policy nonsense.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import sympy
from sympy import Expr, Rational

from rewards.math.answers import Answer, parse_answer
from rewards.math.exact import Number, close, numbers_equal
from rewards.math.tokens import ParseError, UnfinishedError

DIGITS = 30
RELATIVE_TOLERANCE = Fraction(1, 10**25)
_POINTS = (Rational(7, 5), Rational(13, 11), Rational(17, 6), Rational(5, 9), Rational(29, 8), Rational(3, 7))


def judge(pair: tuple[str, str]) -> tuple[bool, str]:
    """Whether the second text is the answer that the first one, the key, states; and a reason."""
    key_text, answer_text = pair
    try:
        answer = parse_answer(answer_text)
    except UnfinishedError as error:
        return False, f"unfinished: {error}"
    except (ParseError, RecursionError) as error:
        return False, f"not understood: {error}"
    try:
        key = parse_answer(key_text)
    except (ParseError, RecursionError) as error:
        return False, f"the key was not understood: {error}"
    equal = same(key, answer)
    return equal, "equal" if equal else "different"


def same(key: Answer, answer: Answer) -> bool:
    """Whether two trees say the same."""
    if key.unit and answer.unit and key.unit != answer.unit:
        return False
    if {key.kind, answer.kind} == {"list", "tuple"}:
        brackets = key.detail or answer.detail
        return brackets == "()" and _in_order(key.items, answer.items)
    if {key.kind, answer.kind} == {"list", "set"}:
        return _in_any_order(key.items, answer.items)
    if key.kind != answer.kind or key.detail != answer.detail:
        return False
    if key.kind == "value":
        return _same_value(key, answer)
    if key.kind == "relation":
        return _same_relation(key, answer)
    if key.kind == "list":
        return _same_list(key.items, answer.items)
    return (
        _in_any_order(key.items, answer.items) if key.kind in ("set", "union") else _in_order(key.items, answer.items)
    )


def _in_order(keys: tuple[Answer, ...], answers: tuple[Answer, ...]) -> bool:
    return len(keys) == len(answers) and all(itertools.starmap(same, zip(keys, answers, strict=True)))


def _in_any_order(keys: tuple[Answer, ...], answers: tuple[Answer, ...]) -> bool:
    left = list(answers)
    for key in keys:
        found = next((index for index, answer in enumerate(left) if same(key, answer)), None)
        if found is None:
            return False
        del left[found]
    return not left


def _same_list(keys: tuple[Answer, ...], answers: tuple[Answer, ...]) -> bool:
    """Solutions come in any order, but `x = 1, y = 2` is not `x = 2, y = 1`."""
    key_names, answer_names = [item.name for item in keys], [item.name for item in answers]
    if len({*key_names} - {""}) <= 1 and len({*answer_names} - {""}) <= 1:
        return _in_any_order(keys, answers)
    if sorted(key_names) == sorted(answer_names) and len(set(key_names)) == len(keys):
        by_name = {item.name: item for item in answers}
        return all(same(key, by_name[key.name]) for key in keys)
    return _in_order(keys, answers)


def _same_value(key: Answer, answer: Answer) -> bool:
    assert key.expression is not None
    assert answer.expression is not None
    if key.number and answer.number:
        return numbers_equal(key.number, answer.number)
    if key.expression == answer.expression:
        return True
    if key.expression.free_symbols or answer.expression.free_symbols:
        return _same_function(key.expression, answer.expression)
    return _same_constant(key, answer)


def _same_constant(key: Answer, answer: Answer) -> bool:
    assert key.expression is not None
    assert answer.expression is not None
    key_parts, answer_parts = _parts(key.expression), _parts(answer.expression)
    if key_parts is None or answer_parts is None:
        return key.expression.doit() == answer.expression.doit()
    if _near(key_parts, answer_parts):
        return True
    if not (any(key_parts) and any(answer_parts)):  # nothing is near 0 in relation to it
        return sympy.simplify(key.expression - answer.expression) == 0
    if key_parts[1] or answer_parts[1]:
        return False
    return close(key.number or Number(key_parts[0]), answer.number or Number(answer_parts[0]))


def _near(key: tuple[Fraction, Fraction], answer: tuple[Fraction, Fraction]) -> bool:
    tolerance = max(abs(part) for part in (*key, *answer)) * RELATIVE_TOLERANCE
    return all(abs(a - b) <= tolerance for a, b in zip(key, answer, strict=True))


def _parts(value: Expr | None) -> tuple[Fraction, Fraction] | None:
    """The real and imaginary parts at 30 digits; None for what is not finite."""
    assert value is not None
    real, imaginary = value.evalf(DIGITS).as_real_imag()
    if not all(isinstance(part, sympy.Float | Rational) and part.is_finite for part in (real, imaginary)):
        return None
    return Fraction(*map(int, Rational(real).as_numer_denom())), Fraction(
        *map(int, Rational(imaginary).as_numer_denom())
    )


def _same_function(key: Expr, answer: Expr) -> bool:
    """Agreement at three points first: it refuses most wrong answers before `simplify` is asked."""
    symbols = sorted(key.free_symbols | answer.free_symbols, key=str)
    for shift in range(3):
        points = {symbol: _POINTS[(index + shift) % 6] + index for index, symbol in enumerate(symbols)}
        at_key, at_answer = _parts(key.subs(points)), _parts(answer.subs(points))
        if at_key is None or at_answer is None:
            continue
        if not _near(at_key, at_answer):
            return False
    return sympy.simplify(key - answer) == 0


def _same_relation(key: Answer, answer: Answer) -> bool:
    """Equal up to a factor, which must be positive for an order."""
    assert key.expression is not None
    ratio = sympy.simplify(key.expression / answer.expression)
    if not ratio.is_number or ratio.is_finite is not True or ratio.is_zero is not False:
        return False
    return key.detail in ("=", "!=") or bool(ratio.is_positive)
