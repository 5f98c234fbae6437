"""The main job's reward as a peer's worker computes it: the rule of `rewards.math.LastInteger`, which a test compares.

Imports nothing of ours.
"""

from __future__ import annotations

import re

NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])[-+\u2212])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+", re.ASCII
)


def last_integer(completion: str, answer: int) -> float:
    """1.0 when the last number of the completion is the integer `answer`."""
    numbers = NUMBER.findall(completion)
    if not numbers:
        return 0.0
    digits, _, decimals = numbers[-1].replace(",", "").replace("\u2212", "-").partition(".")
    whole = not decimals.strip("0") and digits.lstrip("+-").isdecimal() and len(digits) <= 1000
    return float(whole and int(digits) == answer)
