"""A single value from tokens, with what its writing says: how many digits, a percent or degree sign, a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from sympy import Expr, Integer, Mul, oo

from rewards.math.exact import Number
from rewards.math.finished import is_written_out
from rewards.math.parsing import FormulaParser
from rewards.math.tokens import FUNCTIONS, ParseError, Token
from rewards.math.tree import Answer

_MARKS = ("%", "\u00b0")
_FUNCTION_NAMES = ("f", "g", "h", "F", "G", "P", "E", "'")
_NAME_SIGNS = ("_", "{", "}", "(", ")", ",", "|", ":", "'")


def value(tokens: Sequence[Token]) -> Answer:
    """A formula as an answer; raises `ParseError`."""
    written = is_written_out(tokens)
    marked = written and len(tokens) > 1 and tokens[-1].text in _MARKS
    return Answer(
        "value",
        expression=formula(tokens),
        unmarked=formula(tokens[:-1]) if marked else None,
        mark=tokens[-1].text if marked else "",
        number=_number(tokens) if written else None,
        is_written_out=written,
        letters=_letters(tokens),
    )


def _letters(tokens: Sequence[Token]) -> tuple[str, ...]:
    """The words, or single unknowns, that tokens were written as; empty where there is anything else."""
    if not all(token.kind == "letter" and token.word for token in tokens):
        return ()
    words: list[str] = []
    place = 0
    while place < len(tokens):
        text, word = tokens[place].text, tokens[place].word
        words.append(word)
        place += 1 if text == word else len(word)
    return tuple(words)


def formula(tokens: Sequence[Token]) -> Expr:
    """The expression of tokens; raises `ParseError`."""
    return FormulaParser(list(tokens)).whole()


def _number(tokens: Sequence[Token]) -> Number | None:
    """A signed literal, with or without a percent sign, exactly as written."""
    percent = tokens[-1] == Token("sign", "%")
    digits = list(tokens[:-1] if percent else tokens)
    negative = digits[0].text == "-"
    if digits[0].text in ("-", "+"):
        del digits[0]
    if len(digits) != 1 or digits[0].kind != "number":
        return None
    found = Fraction(("0" if digits[0].text.startswith(".") else "") + digits[0].text)
    _, point, decimals = digits[0].text.partition(".")
    return Number(-found if negative else found, len(decimals) if point else None, percent)


def negated(answer: Answer) -> Answer:
    """Minus a value."""
    assert answer.expression is not None
    number = answer.number and replace(answer.number, value=-answer.number.value)
    return replace(answer, expression=Mul(Integer(-1), answer.expression, evaluate=False), number=number)


def infinity(sign: int) -> Answer:
    """Plus or minus infinity."""
    return Answer("value", expression=oo if sign > 0 else -oo)


def is_name(tokens: Sequence[Token]) -> bool:
    r"""Whether this names something (`x`, `f(x)`, `x_1`, `(p,q)`, `\frac{NO}{BO}`, `Area`) rather than computing it."""
    previous, calls = Token("", ""), 0
    for token in tokens:
        if calls or (token.text == "(" and previous.text in _FUNCTION_NAMES):
            calls += (token.text == "(") - (token.text == ")")  # whatever f is taken of
            continue
        if token.kind in ("number", "repeating", "scale", "begin", "end") and previous.text not in ("_", "{"):
            return False
        if token.kind == "sign" and token.text not in _NAME_SIGNS:
            return False
        if token.kind == "command" and token.text in ("sqrt", "cup", "cap", "infty", "pm", "mp"):
            return False
        previous = token
    return any(token.kind in ("letter", "roman", "unit") for token in tokens) or _is_greek(tokens)


def computes(tokens: Sequence[Token]) -> bool:
    r"""Whether what may be a name is rather a formula of unknowns: `xy`, `\sin x`, `\frac{x}{2}`."""
    if tokens and tokens[0].text in ("(", "[") and any(token.text == "," for token in tokens):
        return False  # a point
    outside = _outside_of_arguments(tokens)
    if any(token.kind == "number" or (token.kind == "command" and token.text in FUNCTIONS) for token in outside):
        return True
    letters = [token.text.rpartition(" ")[2] for token in outside if token.kind == "letter"]
    return sum(len(letter) == 1 and letter.islower() for letter in letters) > 1


def _outside_of_arguments(tokens: Sequence[Token]) -> list[Token]:
    """Without subscripts, and without what a function is taken of."""
    outside: list[Token] = []
    previous, depth = Token("", ""), 0
    for token in tokens:
        if depth:
            depth += (token.text in ("(", "{")) - (token.text in (")", "}"))
        elif (token.text == "{" and previous.text == "_") or (token.text == "(" and previous.text in _FUNCTION_NAMES):
            depth = 1
        elif previous.text != "_":
            outside.append(token)
        previous = token
    return outside


def _is_greek(tokens: Sequence[Token]) -> bool:
    return len(tokens) == 1 and tokens[0].kind == "command" and tokens[0].text not in ("pi", "emptyset")


def name_of(tokens: Sequence[Token]) -> str:
    """A name as text: `x_1` of `x_{1}`."""
    return "".join(token.text for token in tokens if token.text not in ("{", "}"))


def named(tokens: Sequence[Token]) -> Expr | None:
    """A name as an expression, or None where it is none."""
    try:
        return formula(tokens)
    except ParseError:
        return None
