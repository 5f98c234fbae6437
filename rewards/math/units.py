"""Units of measurement behind a value: told from symbols, and brought to one spelling. Nothing is converted."""

from __future__ import annotations

import re

from rewards.math.tokens import ParseError, Token

_SPELLINGS = {
    "meter": "m", "metre": "m", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm",
    "kilometer": "km", "kilometre": "km", "gram": "g", "kilogram": "kg", "milligram": "mg", "second": "s", "sec": "s",
    "minute": "min", "hour": "h", "hr": "h", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "mile": "mi",
    "yard": "yd", "liter": "l", "litre": "l", "milliliter": "ml", "pound": "lb", "ounce": "oz", "usd": "dollar",
    "sq": "square", "cu": "cubic", "sq.": "square", "mph": "mi/h", "people": "person",
}  # fmt: skip
_LETTERS = frozenset("mgshlLNJWVAKCF")
"""Letters that are a unit in roman type behind a value: `5\\text{ m}`."""
_NO_UNITS = frozenset(
    {"or", "and", "not", "nor", "but", "if", "then", "else", "maybe", "is", "are", "was", "be", "where", "when", "for"}
    | {"either", "both", "no", "yes", "plus", "minus", "times", "over", "divided", "choose", "squared", "cubed"}
    | {"factorial", "half", "halve", "third", "fourth", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth"}
    | {"tenth", "hundredth", "thousandth", "millionth", "score", "gross", "pair", "root"}
    | {
        "hundred",
        "thousand",
        "million",
        "billion",
        "trillion",
        "dozen",
        "base",
        "below",
        "above",
        "under",
        "less",
        "more",
    }
    | {"negative", "zero", "to", "than"}
)
"""Words behind a number that make it another number, or another answer of it."""
_POWERS = re.compile(r"/|\^-?\d")
_ONE = r"[UR](?:\^\{?-?N\}?)?"
_UNIT = re.compile(rf"{_ONE}(?:[/*]?{_ONE}){{0,3}}$")
_OPERATORS = ("+", "-", "*", "/", "=", "(", "^", "_")


def split_unit(tokens: list[Token]) -> tuple[list[Token], str]:
    r"""Split off a trailing unit, such as `\text{cm}^2`; raises `ParseError` for words that are no unit.

    >>> split_unit([Token("number", "5"), Token("unit", "meters")])
    ([Token(kind='number', text='5')], 'm')
    """
    classes = "".join(map(_class, tokens))
    match = _UNIT.search(classes, 1)
    start = match.start() if match and tokens[match.start() - 1].text not in _OPERATORS else len(tokens)
    if "?" in classes or "U" in classes[:start]:
        raise ParseError("words are not a formula")
    unit = [token for token in tokens[start:] if token.text not in ("{", "}")]
    return tokens[:start], _spelled("".join(f" {t.text}" if t.kind in ("unit", "roman") else t.text for t in unit))


def split_bare_unit(tokens: list[Token]) -> tuple[list[Token], str]:
    """As `split_unit` where the unit may be of plain letters, as in `50 km/h`; all behind the first unit belongs to it.

    >>> split_bare_unit([Token("number", "5"), Token("letter", "m", "m")])
    ([Token(kind='number', text='5')], 'm')
    """
    bare = [token.kind == "letter" and token.word == token.text for token in tokens]
    return split_unit([Token("roman", t.text) if is_bare else t for t, is_bare in zip(tokens, bare, strict=True)])


def _class(token: Token) -> str:
    """One letter a token: U for a unit, ? for words that are none, R for a letter that may be one."""
    if token.kind == "unit":
        words = token.text.split()
        return "?" if len(words) > 4 or any(_is_no_unit(word) for word in words) else "U"
    if token.kind == "roman":
        return "R" if token.text in _LETTERS else "x"
    if token.kind == "number":
        return "N"
    return token.text if len(token.text) == 1 else "x"


def _is_no_unit(word: str) -> bool:
    lowered = word.lower().strip(".,;:!?")
    return lowered in _NO_UNITS or lowered.removesuffix("s") in _NO_UNITS or not _POWERS.sub("", lowered).isalpha()


def _spelled(text: str) -> str:
    """One spelling: `square centimeters` and `cm^2`, `meters` and `m`."""
    words = [_word(word) for word in text.replace("/", " / ").replace(" per ", " / ").replace("^", " ^").split()]
    for power, sign in (("square", "^2"), ("cubic", "^3")):
        while power in words and words.index(power) + 1 < len(words):
            index = words.index(power)
            words[index : index + 2] = [words[index + 1] + sign]
    return "".join(words)


def _word(word: str) -> str:
    lowered = word.lower()
    singular = lowered[:-1] if len(lowered) > 3 and lowered.endswith("s") and not lowered.endswith("ss") else lowered
    return _SPELLINGS.get(lowered, _SPELLINGS.get(singular, singular if len(word) > 3 else word))
