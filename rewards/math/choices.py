"""The letter of a multiple choice, however it is written: `C`, `(C)`, `C.`, `\\text{(C) } 42`, `option C`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.math.cleaning import clean, words

_LABEL = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:? ?)?[(\[]? ?([a-zA-Z]) ?[)\].:,]?(?= |$)"
)
_OTHER = re.compile(
    r"(?:\b(?:or|and|then|maybe|perhaps|possibly|also|not|nor|plus)|[,/&+;|]|^) ?[(\[]?([a-zA-Z])(?![\w'])"
    r"|[(\[]([a-zA-Z])[)\]]"
)


def chosen(text: str, choices: Sequence[str]) -> str | None:
    """The one choice that `text` names, in upper or lower case, or None where it names none or several.

    >>> chosen(r"\\textbf{(C)} 42", "ABCDE"), chosen("A or B", "ABCDE")
    ('C', None)
    """
    plain = " ".join(re.sub(r"[{}]", " ", words(clean(text))).split()).replace("( ", "(").replace(" )", ")")
    match = _LABEL.match(plain) or _LABEL.match(plain.lower())
    letter = _known(match[1], choices) if match else None
    if match is None or letter is None:
        return None
    others = {found[1] or found[2] for found in _OTHER.finditer(plain[match.end() :].strip())}
    return letter if others & {*choices} <= {letter} else None


def _known(letter: str, choices: Sequence[str]) -> str | None:
    by_case = {choice.upper(): choice for choice in choices}
    return letter if letter in choices else by_case.get(letter.upper())
