"""A LaTeX or plain formula as tokens: numbers, commands, letters, words and signs. Nothing is evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass


class ParseError(ValueError):
    """The text is no formula that we read."""


class UnfinishedError(ParseError):
    """The text is a question rather than an answer: an integral, a sum, a limit."""


UNFINISHED = frozenset({"int", "iint", "oint", "sum", "prod", "lim", "det", "nabla", "integral"})
FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "lg"}
    | {"exp", "sqrt", "abs", "binom", "asin", "acos", "atan"}
)
NAMES = frozenset({"pi", "infty", "inf", "infinity", "alpha", "beta", "gamma", "theta", "lambda", "mu", "phi", "omega"})
_ALIASES = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "lbrace": r"\{", "rbrace": r"\}",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "infinity": "infty", "inf": "infty", "asin": "arcsin",
    "acos": "arccos", "atan": "arctan", "lg": "log", "varphi": "phi", "land": ",", "lor": ",", "and": ",", "or": ",",
    "to": "->", "dfrac": "frac",
}  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?:\.\d+)?|\.\d+)"
    r"|\\(?:text|textbf|textit|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{(?P<text>[^{}]*)\}"
    r"|\\begin\s*\{(?P<begin>[a-z]+)\}(?:\{[lcr| ]*\})?|\\end\s*\{(?P<end>[a-z]+)\}"
    r"|\\(?P<command>[a-zA-Z]+)|(?P<row>\\\\)|(?P<brace>\\[{}|])"
    r"|(?P<word>[a-zA-Z]+)|(?P<sign><=|>=|!=|->|\*\*|[-+*/^_=<>()\[\]{}|,;:!%&\u00b0'\u00b1])|(?P<bad>\S))"
)


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is number, command, letter, unit, begin, end or sign; `text` its content."""

    kind: str
    text: str


def tokenize(text: str) -> list[Token]:
    """The tokens of a cleaned formula; raises `ParseError` at what is no formula, `UnfinishedError` at a question."""
    tokens: list[Token] = []
    for match in _TOKEN.finditer(text.rstrip()):
        tokens.extend(_tokens_of(match.lastgroup or "bad", match[match.lastgroup or 0]))
    return tokens


def _tokens_of(group: str, text: str) -> list[Token]:
    if group == "number":
        return [Token("number", text.replace(",", ""))]
    if group == "text":
        return _text_tokens(text.strip())
    if group in ("begin", "end"):
        return [Token(group, text)]
    if group == "row":
        return [Token("sign", r"\\")]
    if group == "brace":
        return [Token("sign", "|" if text == r"\|" else text)]
    if group in ("command", "word"):
        return _word_tokens(text, is_command=group == "command")
    if group == "bad":
        raise ParseError(f"a formula does not contain {text!r}")
    return [Token("sign", {"**": "^", "\u00b1": "pm"}.get(text, text))]


def _text_tokens(text: str) -> list[Token]:
    if text.lower().strip(" ,") in ("and", "or", ""):
        return [Token("sign", ",")] if text else []
    if len(text) == 1 and text.isalpha():
        return [Token("letter", text)]
    return [Token("command", text)] if text in FUNCTIONS else [Token("unit", " ".join(text.split()))]


def _word_tokens(word: str, *, is_command: bool) -> list[Token]:
    if word in UNFINISHED:
        raise UnfinishedError(f"{word} is still to be worked out")
    if word in _ALIASES:
        alias = _ALIASES[word]
        return [Token("command" if alias.isalpha() else "sign", alias)]
    if is_command or word in FUNCTIONS or word in NAMES:
        return [Token("command", word)]
    if word.isupper():
        return [Token("letter", word)]
    if len(word) > 3:
        raise ParseError(f"a formula does not contain the word {word[:40]!r}")
    return [Token("letter", letter) for letter in word]
