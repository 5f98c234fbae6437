"""An answer as a tree: a value, or a list, set, tuple, interval, union, matrix, ratio or relation of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from sympy import Add, Expr, Integer, Mul

from rewards.math.cleaning import MAX_CHARS, clean
from rewards.math.exact import Number
from rewards.math.parsing import FormulaParser
from rewards.math.tokens import ParseError, Token, tokenize

_OPEN, _CLOSE = ("(", "[", "{", r"\{"), (")", "]", "}", r"\}")
_RELATIONS = ("=", "<", ">", "<=", ">=", "!=")
_FLIPPED = {">": "<", ">=": "<="}
MAX_ITEMS = 64


@dataclass(frozen=True)
class Answer:
    """One node. `detail` tells brackets, a relation's sign, or a matrix's shape."""

    kind: str
    items: tuple[Answer, ...] = ()
    detail: str = ""
    expression: Expr | None = None
    number: Number | None = None
    """Of a value written as one plain number: what was written."""
    unit: str = ""
    name: str = ""
    """What the answer was said to equal: `x` of `x = 5`."""


def parse_answer(text: str) -> Answer:
    """The tree of an answer; raises `ParseError` for what is none and `UnfinishedError` for a question."""
    if len(text) > MAX_CHARS:
        raise ParseError(f"an answer may have {MAX_CHARS} characters, got {len(text)}")
    tokens = tokenize(clean(text))
    if len(tokens) > 500:
        raise ParseError(f"an answer may have 500 tokens, got {len(tokens)}")
    return _list(tokens)


def _split(tokens: list[Token], is_border: Callable[[Token], bool]) -> tuple[list[list[Token]], list[str]]:
    """The runs between borders outside of all brackets, and the borders."""
    depth = 0
    runs: list[list[Token]] = [[]]
    borders: list[str] = []
    for token in tokens:
        depth += token.kind == "begin" or (token.kind == "sign" and token.text in _OPEN)
        depth -= token.kind == "end" or (token.kind == "sign" and token.text in _CLOSE)
        if depth == 0 and is_border(token) and token.kind != "end":
            runs.append([])
            borders.append(token.text)
        else:
            runs[-1].append(token)
    return runs, borders


def _signs(*texts: str) -> Callable[[Token], bool]:
    return lambda token: token.kind == "sign" and token.text in texts


def _list(tokens: list[Token]) -> Answer:
    runs, _ = _split(tokens, _signs(",", ";"))
    items = [item for run in runs if run for item in _with_both_signs(run)]
    if not items or len(items) > MAX_ITEMS:
        raise ParseError(f"an answer may have from 1 to {MAX_ITEMS} parts, got {len(items)}")
    return items[0] if len(items) == 1 else Answer("list", tuple(items))


def _with_both_signs(tokens: list[Token]) -> list[Answer]:
    """`3 \\pm 2` is two answers; a sign inside brackets belongs to the brackets' own items."""
    plus_minus = {"pm": ("+", "-"), "mp": ("-", "+")}
    runs, _ = _split(tokens, lambda token: token.text in plus_minus)
    if len(runs) == 1:
        return [_item(tokens)]
    return [
        _item([Token("sign", plus_minus[token.text][side]) if token.text in plus_minus else token for token in tokens])
        for side in (0, 1)
    ]


def _item(tokens: list[Token]) -> Answer:
    tokens, unit = _without_unit(tokens)
    exact, approximations = _split(tokens, lambda token: token == Token("command", "approx"))
    if approximations:
        return _item(exact[1] if _is_name(exact[0]) else exact[0])
    sides, signs = _split(tokens, _signs(*_RELATIONS))
    if signs:
        return _relation(sides, signs, unit)
    around, _ = _split(tokens, lambda token: token == Token("command", "in"))
    if len(around) == 2 and _is_name(around[0]):
        return _item(around[1])
    for border, kind in ((Token("command", "cup"), "union"), (Token("sign", ":"), "ratio")):
        runs, found = _split(tokens, lambda token, border=border: token == border)  # type: ignore[misc]
        if found:
            return Answer(kind, tuple(_item(run) for run in runs))
    return replace(_container(tokens) or _value(tokens), unit=unit)


def _without_unit(tokens: list[Token]) -> tuple[list[Token], str]:
    """Split off a trailing unit, `\\text{cm}^2`."""
    start = next((index for index, token in enumerate(tokens) if token.kind == "unit"), len(tokens))
    unit = tokens[start:]
    if start == 0 or any(not (token.kind in ("unit", "number") or token.text in "^/{}") for token in unit):
        raise ParseError("words are not a formula")
    return tokens[:start], "".join(token.text for token in unit if token.text not in "{}")


def _relation(sides: list[list[Token]], signs: list[str], unit: str) -> Answer:
    if all(sign == "=" for sign in signs) and _is_name(sides[0]):
        value = _list(sides[-1])
        return replace(value, name="".join(token.text for token in sides[0]), unit=unit or value.unit)
    if len(signs) == 2 and _is_name(sides[1]) and len({sign[0] for sign in signs}) == 1 and signs[0][0] in "<>":
        low, high = (sides[0], sides[2]) if signs[0][0] == "<" else (sides[2], sides[0])
        closed = [sign.endswith("=") for sign in (signs if signs[0][0] == "<" else signs[::-1])]
        return Answer("tuple", (_value(low), _value(high)), detail="(["[closed[0]] + ")]"[closed[1]])
    if len(signs) > 1:
        raise ParseError("a chain of relations is no answer")
    left, right = (FormulaParser(side).whole() for side in sides)
    if signs[0] in _FLIPPED:
        left, right = right, left
    difference = Add(left, Mul(Integer(-1), right, evaluate=False), evaluate=False)
    return Answer("relation", detail=_FLIPPED.get(signs[0], signs[0]), expression=difference)


def _is_name(tokens: list[Token]) -> bool:
    """Whether this names something (`x`, `f(x)`, `x_1`, `(p,q)`, `\\frac{NO}{BO}`) rather than computing it."""
    letters = [token for token in tokens if token.kind == "letter"]
    previous = [Token("", ""), *tokens]
    for before, token in zip(previous, tokens, strict=False):
        if token.kind == "number" and before.text not in ("_", "{"):
            return False
        if token.kind == "sign" and token.text not in ("_", "{", "}", "(", ")", ",", "|", ":"):
            return False
    return bool(letters)


def _container(tokens: list[Token]) -> Answer | None:
    """What brackets around everything make of their contents; None where they only group a formula."""
    if not tokens or tokens[0].text not in (*_OPEN, *_MATRICES) or not _closes_at_end(tokens):
        return None
    first, last, inside = tokens[0], tokens[-1], tokens[1:-1]
    if first.kind == "begin":
        return _matrix(inside)
    if first.text == r"\{":
        content = _list(inside) if inside else Answer("list")
        return Answer("set", content.items if content.kind == "list" else (content,))
    if first.text == "{":
        return _list(inside)
    runs, _ = _split(inside, _signs(",", ";"))
    if inside and inside[0].kind == "begin":
        return _container(inside)
    if len(runs) < 2:
        return None
    return Answer("tuple", tuple(_item(run) for run in runs), detail=first.text + last.text)


_MATRICES = ("matrix", "pmatrix", "bmatrix", "array", "Bmatrix", "vmatrix")


def _closes_at_end(tokens: list[Token]) -> bool:
    depth = 0
    for index, token in enumerate(tokens):
        depth += token.kind == "begin" or (token.kind == "sign" and token.text in _OPEN)
        depth -= token.kind == "end" or (token.kind == "sign" and token.text in _CLOSE)
        if depth == 0:
            return index == len(tokens) - 1 and index > 0
    return False


def _matrix(tokens: list[Token]) -> Answer:
    rows = [run for run in _split(tokens, _signs(r"\\"))[0] if run]
    cells = [[_item(cell) for cell in _split(row, _signs("&"))[0]] for row in rows]
    if not cells or len({len(row) for row in cells}) > 1:
        raise ParseError("the rows of a matrix must be equally long")
    return Answer("matrix", tuple(cell for row in cells for cell in row), detail=f"{len(cells)}x{len(cells[0])}")


def _value(tokens: list[Token]) -> Answer:
    expression = FormulaParser(list(tokens)).whole()
    return Answer("value", expression=expression, number=_number(tokens))


def _number(tokens: list[Token]) -> Number | None:
    digits = tokens[1:] if tokens and tokens[0].text == "-" else tokens
    if len(digits) != 1 or digits[0].kind != "number":
        return None
    value = Fraction("0" + digits[0].text) * (-1 if len(tokens) > 1 else 1)
    _, point, decimals = digits[0].text.partition(".")
    return Number(value, len(decimals) if point else None)
