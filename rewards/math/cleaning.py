"""LaTeX answers with what carries no value taken away: dollar signs, spacing, fonts, `\\left` and `\\right`."""

from __future__ import annotations

import re

_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:! ]|q?quad|(?:displaystyle|textstyle|limits|left|right|[bB]igg?[lr]?)(?![a-zA-Z]))|~"
)
_DELIMITERS = re.compile(r"(?<!\\)\$|(?<!\\)\\[()\[\]](?![a-zA-Z])|\\\$")
_DOLLARS_BEHIND = re.compile(r"(?<=[\d}]) ?\\\$")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_PERCENT = re.compile(r"\\%|\b(?:percentage|percent|pct)\b")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|\bdegrees?\b")
_BOX = re.compile(r"\\boxed\s*\{")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
"""`\\\\frac`, as JSON that was escaped twice writes it."""
_BRACED_COMMA = re.compile(r"\s*\{\s*,\s*\}\s*|,\s*\\!\s*")
"""`14{,}916` and `14,\\!916`, as LaTeX keeps the space behind a comma away."""
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_RAISED_DIGITS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "0123456789")
_SIGNS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u00f7": "/", "\u2264": "<=",
        "\u2265": ">=", "\u2260": "!=", "\u221e": r"\infty ", "\u03c0": r"\pi ", "\u03b8": r"\theta ",
        "\u221a": r"\sqrt ", "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2208": r"\in ", "\u2248": r"\approx ",
        "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}", "\u2032": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
        "\u20ac": r"\text{euro}", "\u00a3": r"\text{pound}",
    }
)  # fmt: skip
MAX_CHARS = 2000


def clean(text: str) -> str:
    """`text` without decoration; `\\text{...}` stays, so that units and words can be told from symbols."""
    text = text.strip()
    if not text.isascii():
        text = _RAISED.sub(lambda raised: f"^{{{raised[0].translate(_RAISED_DIGITS)}}}", text).translate(_SIGNS)
    text = _PERCENT.sub("%", text)
    if "\\" in text or "$" in text or "{" in text or "~" in text:
        text = _without_markup(text)
    return _DEGREES.sub("\u00b0", text).strip().rstrip(".,").strip()


def _without_markup(text: str) -> str:
    if r"\begin" not in text or r"\\begin" in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _DOLLARS_BEHIND.sub(r"\\text{ dollars}", _BOX.sub("{", _BRACED_COMMA.sub(",", text)))
    return _SPACING.sub(" ", _DELIMITERS.sub(" ", _FRACTIONS.sub(r"\\frac", text)))


def words(text: str) -> str:
    """A cleaned answer as plain words, to compare texts: fonts, brackets around a letter and spaces do not count."""
    previous = ""
    while previous != text:
        previous, text = text, _TEXT.sub(r" \1 ", text)
    text = " ".join(text.split())
    return text[1:-1].strip() if re.fullmatch(r"\([a-zA-Z]\)", text) else text
