"""Whether two answers are the same: by structure, as written numbers, and by value at enough digits.

Runs where it can be killed: the budgets keep what is written small, not what a sine of an exponential takes to compute.
A doubt is a no: a false yes teaches the policy nonsense, a false no only costs it a sample.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import sympy
from sympy import Add, Expr, Mul

from rewards.math.answers import parse_answer
from rewards.math.cleaning import clean, words
from rewards.math.exact import Number, close, numbers_equal
from rewards.math.finished import function_classes, is_closed_form
from rewards.math.naming import as_points, names, unknowns
from rewards.math.numeric import as_fraction, constant_ratio, digits_needed, is_real, near, same_function, value_at
from rewards.math.pair import Pair, Verdict
from rewards.math.tokens import ParseError, UnfinishedError
from rewards.math.tree import Answer

_WORDS = re.compile(r"[a-zA-Z][a-zA-Z ,.'()-]*")
_SHORT_WORDS = frozenset({"no", "on", "up", "so", "if", "of", "to", "go", "do", "we", "he", "it", "us", "ok"})


def judge(pair: Pair) -> Verdict:
    """Whether the pair's answer is what its key states."""
    try:
        return _judged(pair)
    except UnfinishedError as error:
        return False, f"unfinished: {error}"
    except Exception as error:  # noqa: BLE001 - what sympy raises over odd formulas is not documented
        return False, f"not understood: {str(error) or type(error).__name__}"


def _judged(pair: Pair) -> Verdict:
    answer = parse_answer(pair.answer)
    try:
        key = _parsed_key(pair.key)
    except (ParseError, RecursionError) as error:
        if _WORDS.fullmatch(words(clean(pair.key))):
            return False, "different"
        return None, f"the key {pair.key[:80]!r} was not understood: {error}"
    if not any(same(*reading, pair) for reading in _readings(pair, key, answer)):
        return False, "different"
    is_formula = answer.expression is not None and bool(answer.expression.args)
    if pair.copied and is_formula and not answer.is_written_out:
        raise UnfinishedError("it repeats a formula of the question")
    return True, "equal"


@functools.lru_cache(maxsize=256)
def _parsed_key(text: str) -> Answer:
    """Samples of a group share their key."""
    return parse_answer(text)


def _readings(pair: Pair, key: Answer, answer: Answer) -> Iterator[tuple[Answer, Answer]]:
    r"""As read; the solution 5 as all of `\{5\}`; and `100,200,300` as a list where the other side is one."""
    yield key, answer
    if {key.kind, answer.kind} == {"value", "set"}:
        yield tuple(side if side.kind == "set" else Answer("set", (side,)) for side in (key, answer))  # type: ignore[misc]
    if answer.kind == "value" != key.kind and "," in pair.answer:
        yield key, parse_answer(pair.answer, thousands=False)
    if key.kind == "value" != answer.kind and pair.key.count(",") > 1:
        yield parse_answer(pair.key, thousands=False), answer


def same(key: Answer, answer: Answer, pair: Pair) -> bool:
    """Whether two trees say the same under the rules of `pair`. Raises `UnfinishedError`."""
    if key.quantity and answer.unit:
        key = key.quantity
    elif answer.quantity and key.unit:
        answer = answer.quantity
    if key.unit and answer.unit and key.unit != answer.unit:
        return False
    kinds = {key.kind, answer.kind}
    if kinds == {"list", "tuple"}:
        return (key.detail or answer.detail) == "()" and _in_order(*as_points(key, answer), pair)
    if kinds == {"list", "set"}:
        return _unordered(key.items, answer.items, pair)
    if key.kind != answer.kind:
        converted = _as_one_kind(key, answer, pair)
        return converted is not None and same(*converted, pair)
    match key.kind:
        case "value":
            return not _named_otherwise(key, answer) and _same_value(key, answer, pair)
        case "relation":
            return _same_relation(key, answer, pair)
        case "chain" if key.interval and answer.interval:
            return same(key.interval, answer.interval, pair)
        case "list":
            return _same_list(key, answer, pair)
        case "set":
            return _unordered(key.items, answer.items, pair)
        case "union" | "intersection":
            return _as_sets(key.items, answer.items, pair)
        case "tuple":
            return key.detail == answer.detail and _in_order(*as_points(key, answer), pair)
    return key.detail == answer.detail and _in_order(key.items, answer.items, pair)


def _as_one_kind(key: Answer, answer: Answer, pair: Pair) -> tuple[Answer, Answer] | None:
    """Inequalities as intervals, and `y = 2x` as an equation where the other side is one."""
    if key.kind == "relation" and answer.kind == "value":
        return (key, _equation(answer)) if answer.named is not None else None
    if key.kind == "value" and answer.kind == "relation":
        assert key.expression is not None
        return (_equation(key), answer) if key.named is not None and key.expression.free_symbols else None
    sets = ("tuple", "union")
    if key.interval and answer.kind in sets:
        return key.interval, answer
    if answer.interval and key.kind in sets and pair.inequalities:
        return key, answer.interval
    kinds = {key.kind, answer.kind}
    if kinds == {"list", "union"}:
        return _union(key), _union(answer)
    if kinds == {"matrix", "tuple"} and "()" in (key.detail, answer.detail):
        return _column(key), _column(answer)
    return None


def _column(answer: Answer) -> Answer:
    """`(1, 2)` as the column that a vector is."""
    return answer if answer.kind == "matrix" else Answer("matrix", answer.items, detail=f"{len(answer.items)}x1")


def _equation(answer: Answer) -> Answer:
    difference = Add(answer.named, Mul(-1, answer.expression, evaluate=False), evaluate=False)
    return Answer("relation", detail="=", expression=difference)


def _union(answer: Answer) -> Answer:
    """`x < 1 or x > 3` as a union of intervals."""
    return Answer("union", tuple(item.interval or item for item in answer.items))


def _in_order(keys: Sequence[Answer], answers: Sequence[Answer], pair: Pair) -> bool:
    return len(keys) == len(answers) and all(
        itertools.starmap(functools.partial(same, pair=pair), zip(keys, answers, strict=True))
    )


def _as_sets(keys: Sequence[Answer], answers: Sequence[Answer], pair: Pair) -> bool:
    """Each of the one is among the others, and none is left over; order and repetition do not count."""
    left = list(answers)
    for key in keys:
        found = [answer for answer in answers if same(key, answer, pair)]
        if not found:
            return False
        left = [answer for answer in left if not any(answer is one for one in found)]
    return not left


def _same_list(key: Answer, answer: Answer, pair: Pair) -> bool:
    """Solutions come in any order, but `x = 1, y = 2` is not `x = 2, y = 1`."""
    if len(names(key.items)) <= 1 and len(names(answer.items)) <= 1:
        return _as_sets(key.items, answer.items, pair)
    return _by_name(key.items, answer.items, pair) or _in_order(*as_points(key, answer), pair)


def _unordered(keys: Sequence[Answer], answers: Sequence[Answer], pair: Pair) -> bool:
    r"""As sets; but `x = 1, y = 2` is not `\{2, 1\}`, which does not say what is which."""
    if max(len(unknowns(items)) for items in (keys, answers)) > 1:
        return _by_name(keys, answers, pair)
    return _as_sets(keys, answers, pair)


def _by_name(keys: Sequence[Answer], answers: Sequence[Answer], pair: Pair) -> bool:
    """Whether both name the same different things, and say the same of each."""
    by_name = {item.name: item for item in answers}
    if len(by_name) < len(answers) or sorted(by_name) != sorted(item.name for item in keys):
        return False
    return all(same(key, by_name[key.name], pair) for key in keys)


def _named_otherwise(key: Answer, answer: Answer) -> bool:
    """`x = 2` is not `y = 2`; longer names are as good as none."""
    return key.name != answer.name and len(key.name) == len(answer.name) == 1


def _same_value(key: Answer, answer: Answer, pair: Pair) -> bool:
    assert key.expression is not None
    assert answer.expression is not None
    if key.number and answer.number:
        return numbers_equal(key.number, answer.number, pair.decimals)
    if key.letters and answer.letters and _spell_otherwise(key.letters, answer.letters):
        return False
    if key.expression == answer.expression:
        _refuse_unfinished(key, answer)
        return True
    readings: list[tuple[Expr, Expr]] = [(key.expression, answer.expression)]
    if key.mark != answer.mark:  # 90 degrees are meant by a plain 90, as 50 percent are by a 50
        readings.append((key.unmarked or key.expression, answer.unmarked or answer.expression))
    for first, second in readings:
        if first.free_symbols:
            if second.free_symbols <= first.free_symbols and same_function(first, second, f"{pair.key}\n{pair.answer}"):
                return True
        elif not second.free_symbols and _same_constant(
            replace(key, expression=first), replace(answer, expression=second), pair
        ):
            return True
    return False


def _spell_otherwise(key: Sequence[str], answer: Sequence[str]) -> bool:
    """Whether letters that may be a word are others, or in another order: `dog` is not `god`, but `yx` is `xy`."""
    may_be_words = any(len(run) > 2 or run.lower() in _SHORT_WORDS for run in (*key, *answer))
    return may_be_words and "".join(key) != "".join(answer)


def _same_constant(key: Answer, answer: Answer, pair: Pair) -> bool:
    assert key.expression is not None
    assert answer.expression is not None
    digits = digits_needed(key.expression, answer.expression)
    at_key, at_answer = value_at(key.expression, digits), value_at(answer.expression, digits)
    if at_key is None or at_answer is None:
        return False
    if near(at_key, at_answer, digits):
        _refuse_unfinished(key, answer)
        return True
    if not (is_real(at_key) and is_real(at_answer)):
        return False
    exact = _as_number(key, at_key[0]), _as_number(answer, at_answer[0])
    if exact[0] is None or exact[1] is None or not close(exact[0], exact[1], pair.decimals):
        return False
    if not (answer.is_written_out or is_closed_form(answer.expression)):
        raise UnfinishedError("arithmetic is still to be done")
    return True


def _refuse_unfinished(key: Answer, answer: Answer) -> None:
    if answer.is_written_out:
        return
    if key.is_written_out and key.mark != "\u00b0":  # 90 degrees are pi/2 just as well
        raise UnfinishedError("the key is a plain number, and this is not written out as one")
    extra = function_classes(answer.expression) - function_classes(key.expression)
    if extra:
        raise UnfinishedError(f"{sorted(extra)[0]} functions are still to be worked out")


def _as_number(answer: Answer, value: sympy.Float) -> Number | None:
    """A value as a number that may be rounded: with its decimals where they were written."""
    exact = as_fraction(value)
    written = answer.number
    if written is not None and not written.percent:
        return written
    return None if exact is None else Number(exact)


def _same_relation(key: Answer, answer: Answer, pair: Pair) -> bool:
    """Equal up to a factor, which must be positive for an order."""
    assert key.expression is not None
    assert answer.expression is not None
    if key.detail != answer.detail or key.expression.free_symbols != answer.expression.free_symbols:
        return False
    ratio = constant_ratio(key.expression, answer.expression, f"{pair.key}\n{pair.answer}")
    return ratio is not None and (key.detail in ("=", "!=") or ratio > 0)
