"""Verdicts that need no algebra: a choice, two plain numbers, the same words, an answer far too long."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rewards.math.choices import chosen
from rewards.math.cleaning import clean, words
from rewards.math.exact import Number, number, numbers_equal, with_decimal_comma
from rewards.math.pair import Verdict

MAX_TIMES_KEY, MAX_BEYOND_KEY = 4, 32
"""An answer may have 4 x the key's characters + 32: a longer one tells a story, or hides a question."""


def quick_verdict(key: str, text: str, *, choices: Sequence[str] = (), decimals: int | None = None) -> Verdict | None:
    """The verdict in microseconds, or None where two formulas have to be compared.

    >>> quick_verdict("1234", "1,234"), quick_verdict("2x", "x+x")
    ((True, 'equal'), None)
    """
    key_clean, key_number = _reading_of_key(key)
    if choices and (letter := words(key_clean)) in choices:
        return _told(chosen(text, choices) == letter)
    text_clean, text_number = _reading(text)
    if key_number and text_number:
        return _told(numbers_equal(key_number, text_number, decimals))
    if _same_words(key_clean, text_clean):
        return _told(True)
    key_number, text_number = _with_comma(key_clean, key_number, text_clean, text_number)
    if key_number and text_number:
        return _told(numbers_equal(key_number, text_number, decimals))
    if len(text_clean) > MAX_TIMES_KEY * len(key_clean) + MAX_BEYOND_KEY:
        return False, f"longer than {MAX_TIMES_KEY} x the key + {MAX_BEYOND_KEY} characters"
    return None


def _told(equal: bool) -> Verdict:
    return (True, "equal") if equal else (False, "different")


def _reading(text: str) -> tuple[str, Number | None]:
    """A text cleaned, and the plain number that it is."""
    found = number(text)
    if found:
        return text, found
    cleaned = clean(text)
    return cleaned, number(cleaned)


@functools.lru_cache(maxsize=4096)
def _reading_of_key(text: str) -> tuple[str, Number | None]:
    """The samples of a group share their key."""
    return _reading(text)


def _with_comma(
    key: str, key_number: Number | None, text: str, text_number: Number | None
) -> tuple[Number | None, Number | None]:
    """`2,74` is a number where the other side is one with a decimal point."""
    if key_number and key_number.decimals is not None:
        return key_number, with_decimal_comma(text)
    if text_number and text_number.decimals is not None:
        return with_decimal_comma(key), text_number
    return None, None


def _same_words(key: str, text: str) -> bool:
    """The same text, in any case from three letters on: `X` and `x` may be different unknowns."""
    if key == text:
        return True
    key, text = words(key), words(text)
    if not key.replace(" ", "").isalpha():
        return False
    return key == text or (key.lower() == text.lower() and (len(key) > 2 or key.lower() == "no"))
