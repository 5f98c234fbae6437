"""LaTeX answers with what carries no value taken away: dollar signs, spacing, fonts, `\\left` and `\\right`."""

from __future__ import annotations

import re

_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:! ]|q?quad(?![a-zA-Z])|displaystyle(?![a-zA-Z])|left(?![a-zA-Z])|right(?![a-zA-Z]))|~"
)
_DELIMITERS = re.compile(r"(?<!\\)\$|(?<!\\)\\[()\[\]](?![a-zA-Z])|\\\$")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_PERCENT = re.compile(r"\\%|\b(?:percentage|percent|pct)\b")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|\u00b0")
_BOX = re.compile(r"\\boxed\s*\{")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
"""`\\\\frac`, as JSON that was escaped twice writes it."""
MAX_CHARS = 2000


def clean(text: str) -> str:
    """`text` without decoration; `\\text{...}` stays, so that units and words can be told from symbols."""
    text = text.strip().replace("\u2212", "-").replace("{,}", ",")
    text = _BOX.sub("{", text if "\\begin" in text else _DOUBLED.sub(r"\\", text))
    text = re.sub(r",\s*\\!\s*", ",", text)
    text = _FRACTIONS.sub(r"\\frac", _DEGREES.sub("\u00b0", _PERCENT.sub("%", text)))
    text = _SPACING.sub(" ", _DELIMITERS.sub(" ", text))
    return text.strip().rstrip(".").strip()


def words(text: str) -> str:
    """A cleaned answer as plain words, to compare texts: fonts, brackets around a letter and spaces do not count."""
    previous = ""
    while previous != text:
        previous, text = text, _TEXT.sub(r" \1 ", text)
    text = " ".join(text.split())
    return text[1:-1].strip() if re.fullmatch(r"\([a-zA-Z]\)", text) else text
