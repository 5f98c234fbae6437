"""The simplest check of a sum: is the last number of the completion the right integer?"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from rewards.types import Score

MAX_DIGITS = 1000
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])[-+\u2212])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+", re.ASCII
)
"""A minus is a sign where no operand stands before it: `= -5` but not `12-5`."""


@dataclass(frozen=True)
class LastInteger:
    """1.0 when the last number of the completion is the integer `answer`; `57.0` counts as 57, `57.5` as no integer.

    >>> LastInteger()(completion="12 + 45 = 57.", answer=57).value
    1.0
    """

    execution = "inline"  # one linear pass

    def __call__(self, completion: str, answer: int | str) -> Score:
        expected = _integer(str(answer).strip())
        if expected is None:
            raise ValueError(f"answer must be an integer, got {answer!r}")
        numbers = deque(_NUMBER.finditer(completion), maxlen=1)
        if not numbers:
            return Score(0.0, info={"reason": "no number", "extracted": ""})
        last = numbers[0].group()
        right = _integer(last) == expected
        return Score(float(right), info={"reason": "equal" if right else "different", "extracted": last[:MAX_DIGITS]})


def _integer(text: str) -> int | None:
    digits, _, decimals = text.replace(",", "").replace("\u2212", "-").partition(".")
    if len(digits) > MAX_DIGITS or decimals.strip("0") or not digits.lstrip("+-").isdecimal():
        return None
    return int(digits)
