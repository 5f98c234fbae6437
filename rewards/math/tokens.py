"""A LaTeX or plain formula as tokens: numbers, commands, letters, words and signs. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal


class ParseError(ValueError):
    """The text is no formula that we read."""


class UnfinishedError(ParseError):
    """The text is a question rather than an answer: an integral, a sum, a limit."""


UNFINISHED = frozenset(
    {"int", "iint", "iiint", "oint", "integral", "sum", "prod", "coprod", "lim", "limsup", "liminf", "det", "nabla"}
    | {"partial", "max", "min", "sup", "gcd", "lcm", "bmod", "mod", "integrate", "limit", "derivative"}
)
FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "lg"}
    | {"exp", "sqrt", "abs", "binom", "arccot", "arcsinh", "arccosh", "arctanh"}
)
NAMES = frozenset({"pi", "infty", "alpha", "beta", "gamma", "theta", "lambda", "mu", "phi", "omega"})
_ALIASES = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "lbrace": r"\{", "rbrace": r"\}",
    "lvert": "|", "rvert": "|", "lVert": "|", "rVert": "|", "vert": "|", "mid": "|", "infinity": "infty",
    "inf": "infty", "oo": "infty", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "varphi": "phi",
    "land": ",", "lor": ",", "vee": ",", "wedge": ",", "and": ",", "or": ",", "to": "->", "dfrac": "frac",
    "dbinom": "binom", "tbinom": "binom", "langle": "(", "rangle": ")", "lbrack": "[", "rbrack": "]",
    "backslash": "setminus", "varnothing": "emptyset", "pmod": "mod", "prime": "'", "colon": ":",
}  # fmt: skip
_SCALES = {
    "hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000", "trillion": "1000000000000",
    "dozen": "12",
}  # fmt: skip
_SHORT_UNITS = frozenset({"cm", "mm", "km", "kg", "ml", "ft", "sq", "lb", "oz", "min", "mph", "hr", "hrs", "usd"})
"""Two letters behind a number that are a unit rather than a product of unknowns."""
_TOKEN = re.compile(
    r"\s*(?:(?P<repeating>\d*\.\d*\s*(?:\\(?:overline|bar|dot)\s*\{?\d+\}?|\(\d+\)))"
    r"|(?P<number>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?![\w.]))?|\.\d+)"
    r"|\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{(?P<text>[^{}]*)\}"
    r"|\\math(?:bb|cal)\s*\{?(?P<blackboard>[A-Z])\}?"
    r"|(?P<decorated>\\(?:vec|hat|bar|overline|overrightarrow|widehat|tilde|widetilde|dot|ddot|boldsymbol|mathbf)"
    r"(?:\s*\{\s*[a-zA-Z]+\s*\}|\s+[a-zA-Z]))"
    r"|\\begin\s*\{(?P<begin>[a-zA-Z]+)\}(?:\{[lcr| ]*\})?|\\end\s*\{(?P<end>[a-zA-Z]+)\}"
    r"|\\(?P<command>[a-zA-Z]+)|(?P<row>\\\\)|(?P<brace>\\[{}|])"
    r"|(?P<word>[a-zA-Z]+)|(?P<sign><=|>=|!=|->|\*\*|[-+*/^_=<>()\[\]{}|,;:!%&\u00b0'\u00b1.])|(?P<bad>\S))"
)
DECORATIONS = {
    "bar": "bar", "overline": "bar", "hat": "hat", "widehat": "hat", "tilde": "tilde", "widetilde": "tilde",
    "dot": "dot", "ddot": "ddot",
}  # fmt: skip
"""Signs above a letter that make another unknown of it; a line may say conjugate, complement or mean."""
_ARROWS = ("vec", "overrightarrow")
_BRACKETS = {"(": 1, "[": 1, r"\{": 1, ")": -1, "]": -1, r"\}": -1}


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is number, repeating, scale, command, letter, roman, unit, begin, end or sign; `text` its content."""

    kind: str
    text: str
    word: str = field(default="", compare=False, repr=False)
    """The bare word that a letter was written in."""


def tokenize(text: str, *, thousands: bool = True) -> list[Token]:
    """The tokens of a cleaned formula; raises `ParseError` at what is no formula, `UnfinishedError` at a question.

    `thousands`: whether `1,234` is one number where no bracket is open; in `(1,234)` it is two.
    """
    tokens: list[Token] = []
    depth = 0
    for match in _TOKEN.finditer(text.rstrip()):
        group = match.lastgroup or "bad"
        if group == "number" and "," in match[group] and not (thousands and depth == 0):
            tokens.extend(_listed(match[group]))
            continue
        found = _tokens_of(group, match[group], tokens)
        depth += sum(_BRACKETS.get(token.text, 0) for token in found)
        tokens.extend(found)
    return tokens


def _listed(text: str) -> list[Token]:
    """`1,234` as two numbers."""
    numbers = [Token("number", number) for number in text.split(",")]
    return [token for number in numbers for token in (number, Token("sign", ","))][:-1]


def _tokens_of(group: str, text: str, before: Sequence[Token]) -> list[Token]:
    match group:
        case "number":
            return [Token("number", _digits(text.replace(",", "")))]
        case "repeating":
            return [Token("repeating", _repeating(text))]
        case "text":
            return _text_tokens(text.strip(" ~"))
        case "blackboard":
            return [Token("letter", f"mathbb {text}")]
        case "decorated":
            return [Token("letter", _decorated(text))]
        case "begin" | "end":
            return [Token(group, text)]
        case "row":
            return [Token("sign", r"\\")]
        case "brace":
            return [Token("sign", "|" if text == r"\|" else text)]
        case "command" | "word":
            return _word_tokens(text, is_command=group == "command", before=before)
        case "sign" if text != ".":
            return [Token("sign", {"**": "^", "\u00b1": "pm"}.get(text, text))]
    raise ParseError(f"a formula does not contain {text!r}")


def _digits(text: str) -> str:
    """`1.5e3` written out."""
    return format(Decimal(text), "f") if "e" in text.lower() else text


def _repeating(text: str) -> str:
    r"""`0.1\overline{6}` and `0.1(6)` as `0.1|6`."""
    whole, decimals, repeated = re.fullmatch(r"(\d*)\.(\d*)\D*(\d+)\D*", text).groups()  # type: ignore[union-attr]
    return f"{whole or 0}.{decimals}|{repeated}"


def _decorated(text: str) -> str:
    r"""`bar z` of `\overline{z}`; but `v` of a vector `\vec{v}` and `AB` of a segment `\overline{AB}`, as most write.

    An arrow over two points is not their distance.
    """
    sign, letters = re.findall(r"[a-zA-Z]+", text)
    is_segment = sign == "overline" and len(letters) == 2 and letters.isupper()
    if sign in DECORATIONS and not is_segment:
        return f"{DECORATIONS[sign]} {letters}"
    return f"vec {letters}" if sign in _ARROWS and len(letters) > 1 else letters


def _text_tokens(text: str) -> list[Token]:
    lowered = text.lower().strip(" ,.")
    if lowered in ("and", "or", ""):
        return [Token("sign", ",")] if text else []
    if lowered in UNFINISHED:
        raise UnfinishedError(f"{lowered} is still to be worked out")
    if text[0].isdigit() or (text[0] in "-+." and text[1:2].isdigit()):
        return tokenize(text)
    if text[0] in "%\u00b0":
        return [Token("sign", text[0]), *_text_tokens(text[1:].strip())]
    if len(text) == 1 and text.isalpha():
        return [Token("roman", text)]
    return [Token("command", text)] if text in FUNCTIONS else [Token("unit", " ".join(text.split()))]


def _word_tokens(word: str, *, is_command: bool, before: Sequence[Token]) -> list[Token]:
    if not is_command and word.lower() in _SHORT_UNITS and before and before[-1].kind == "number":
        return [Token("unit", word)]
    if word in UNFINISHED:
        raise UnfinishedError(f"{word} is still to be worked out")
    if word in _ALIASES:
        alias = _ALIASES[word]
        if alias in UNFINISHED:
            raise UnfinishedError(f"{word} is still to be worked out")
        return [Token("command" if alias.isalpha() else "sign", alias)]
    if is_command or word in FUNCTIONS or word in NAMES:
        return [Token("command", word)]
    if word.lower() in _SCALES:
        return [Token("scale", _SCALES[word.lower()])]
    if word.isupper():
        return [Token("letter", word, word)]
    if len(word) > 3:
        return [Token("unit", word)]
    return [Token("letter", letter, word) for letter in word]
