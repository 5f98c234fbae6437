"""The text of an answer as a tree: a value, or lists, sets, tuples, intervals, matrices and relations of values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rewards.math.budgets import MAX_TOKENS
from rewards.math.cleaning import MAX_CHARS, clean
from rewards.math.finished import is_written_out
from rewards.math.relations import RELATIONS, reals, relation, without_points
from rewards.math.tokens import ParseError, Token, UnfinishedError, tokenize
from rewards.math.tree import OPEN, Answer, closes_at_end, command, signs, split
from rewards.math.units import split_bare_unit, split_unit
from rewards.math.values import is_name, name_of, value

MAX_ITEMS = 64
_VECTOR = r"\\(?:vec|overrightarrow|mathbf|boldsymbol|hat)\s*\{?\s*[a-zA-Z]+\s*\}?"
_CROSS_PRODUCT = re.compile(rf"{_VECTOR}\s*\\times\s*{_VECTOR}")
"""Its order counts, unlike that of other products."""
_MATRICES = ("matrix", "pmatrix", "bmatrix", "array", "Bmatrix", "smallmatrix")
_OPERATIONS = (
    (command("setminus"), "difference"), (command("cup"), "union"), (command("cap"), "intersection"),
    (signs(":"), "ratio"),
)  # fmt: skip
_REALS = Token("letter", "mathbb R")


def parse_answer(text: str, *, thousands: bool = True) -> Answer:
    """The tree of an answer; raises `ParseError` for what is none and `UnfinishedError` for a question.

    `thousands`: whether `1,234` is a number rather than a list.
    """
    if len(text) > MAX_CHARS:
        raise ParseError(f"an answer may have {MAX_CHARS} characters, got {len(text)}")
    if _CROSS_PRODUCT.search(text):
        raise ParseError("a cross product is not read")
    tokens = tokenize(clean(text), thousands=thousands)
    if len(tokens) > MAX_TOKENS:
        raise ParseError(f"an answer may have {MAX_TOKENS} tokens, got {len(tokens)}")
    answer = _list(tokens)
    in_dollars = r"\$" in text and answer.kind == "value" and not answer.unit
    return replace(answer, unit="dollar") if in_dollars else answer


def _list(tokens: list[Token]) -> Answer:
    runs, borders = split(tokens, signs(",", ";"))
    if len(set(borders)) > 1:  # `p=5, q=2; p=7, q=2` is a list of lists
        items = [_list(run) for run in split(tokens, signs(";"))[0] if run]
    else:
        items = [item for run in runs if run for item in _with_both_signs(run)]
    if not items or len(items) > MAX_ITEMS:
        raise ParseError(f"an answer may have from 1 to {MAX_ITEMS} parts, got {len(items)}")
    return items[0] if len(items) == 1 else Answer("list", tuple(items))


def _with_both_signs(tokens: list[Token]) -> list[Answer]:
    """`3 \\pm 2` is two answers; a sign inside a set or tuple belongs to that one's own items."""
    plus_minus = {"pm": ("+", "-"), "mp": ("-", "+")}
    if not any(token.text in plus_minus for token in tokens) or _is_listing(tokens):
        return [_item(tokens)]
    return [
        _item([Token("sign", plus_minus[token.text][side]) if token.text in plus_minus else token for token in tokens])
        for side in (0, 1)
    ]


def _is_listing(tokens: list[Token]) -> bool:
    is_set = tokens[0].text == r"\{"
    return closes_at_end(tokens) and (is_set or len(split(tokens[1:-1], signs(",", ";", "&", r"\\"))[1]) > 0)


def _item(tokens: list[Token]) -> Answer:
    exact, approximations = split(tokens, command("approx"))
    if approximations:
        return _item(exact[1] if is_name(exact[0]) or not exact[0] else exact[0])
    sides, found = split(tokens, signs(*RELATIONS))
    if found:
        return relation(sides, found, _list)
    around, _ = split(tokens, command("in"))
    if len(around) == 2 and is_name(around[0]):
        return replace(_item(around[1]), name=name_of(around[0]))
    for border, kind in _OPERATIONS:
        runs, found = split(tokens, border)
        if found:
            items = tuple(_item(run) for run in runs)
            return without_points(*items) or Answer(kind, items) if kind == "difference" else Answer(kind, items)
    quantity = _quantity(tokens)
    try:
        tokens, unit = split_unit(tokens)
    except ParseError:
        if quantity is None:
            raise
        return quantity
    return replace(_known_set(tokens) or _container(tokens) or value(tokens), unit=unit, quantity=quantity)


def _quantity(tokens: list[Token]) -> Answer | None:
    """`50 km/h` and `5 m`, whose unit nothing but its place tells from a product with unknowns."""
    if len(tokens) < 2 or not any(token.kind == "letter" for token in tokens):
        return None
    try:
        number, unit = split_bare_unit(tokens)
    except ParseError:
        return None
    return replace(value(number), unit=unit) if unit and is_written_out(number) else None


def _known_set(tokens: Sequence[Token]) -> Answer | None:
    if list(tokens) == [_REALS]:
        return reals()
    return Answer("set") if list(tokens) == [Token("command", "emptyset")] else None


def _container(tokens: list[Token]) -> Answer | None:
    """What brackets around everything make of their contents; None where they only group a formula."""
    if not tokens or not (tokens[0].text in OPEN or tokens[0].kind == "begin") or not closes_at_end(tokens):
        return None
    first, last, inside = tokens[0], tokens[-1], tokens[1:-1]
    if first.kind == "begin":
        return _matrix(first.text, inside)
    if first.text == r"\{":
        return _set(inside)
    if first.text == "{":
        return _list(inside)
    runs, _ = split(inside, signs(",", ";"))
    if inside and inside[0].kind == "begin":
        return _container(inside)
    if len(runs) < 2:
        return None
    return Answer("tuple", tuple(_item(run) for run in runs), detail=first.text + last.text)


def _set(inside: list[Token]) -> Answer:
    """The elements, or what the condition of `\\{x : x > 0\\}` says."""
    for border in ("|", ":"):
        runs, found = split(inside, signs(border))
        if len(found) == 1 and is_name(runs[0]):
            condition = _item(runs[1])
            if condition.interval is None:
                raise ParseError("a set's condition must be an interval")
            return condition.interval
    content = _list(inside) if inside else Answer("list")
    return Answer("set", content.items if content.kind == "list" else (content,))


def _matrix(kind: str, tokens: list[Token]) -> Answer:
    if kind in ("vmatrix", "Vmatrix"):
        raise UnfinishedError("a determinant is still to be worked out")
    if kind not in _MATRICES:
        raise ParseError(f"{kind!r} is not known")
    rows = [run for run in split(tokens, signs(r"\\"))[0] if run]
    cells = [[_item(cell) for cell in split(row, signs("&"))[0]] for row in rows]
    if not cells or len({len(row) for row in cells}) > 1:
        raise ParseError("the rows of a matrix must be equally long")
    return Answer("matrix", tuple(cell for row in cells for cell in row), detail=f"{len(cells)}x{len(cells[0])}")
