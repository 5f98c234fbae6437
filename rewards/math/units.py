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
)
"""Words behind a number that make it another number, or another answer of it."""
_POWERS = re.compile(r"/|\^-?\d")
_UNIT = re.compile(r"U(?:\^-?N)?(?:[/*.]?U(?:\^-?N)?){0,3}")


def split_unit(tokens: list[Token]) -> tuple[list[Token], str]:
    r"""Split off a trailing unit, such as `\text{cm}^2`; raises `ParseError` for words that are no unit.

    >>> split_unit([Token("number", "5"), Token("unit", "meters")])
    ([Token(kind='number', text='5')], 'm')
    """
    start = next((index for index, token in enumerate(tokens) if token.kind == "unit"), len(tokens))
    while start > 1 and _is_unit_letter(tokens[start - 1]) and tokens[start - 2].text not in ("+", "-", "*", "=", "("):
        start -= 1
    unit = [token for token in tokens[start:] if token.text not in ("{", "}")]
    if not unit:
        return tokens, ""
    if start == 0 or not _UNIT.fullmatch("".join(map(_class, unit))):
        raise ParseError("words are not a formula")
    return tokens[:start], _spelled("".join(f" {t.text}" if t.kind in ("unit", "roman") else t.text for t in unit))


def _is_unit_letter(token: Token) -> bool:
    return token.kind == "roman" and token.text in _LETTERS


def _class(token: Token) -> str:
    if token.kind == "unit":
        words = token.text.split()
        if len(words) > 4 or any(_is_no_unit(word) for word in words):
            return "?"
        return "U"
    if token.kind == "number":
        return "N"
    return "U" if token.kind == "roman" else token.text


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
