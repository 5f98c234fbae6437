"""Rewards that lead a run astray in ways that the doctor should see."""

from __future__ import annotations

import time
from collections import deque
from statistics import fmean

from rewards.types import Score


class Constant:
    """The same for everything."""

    execution = "inline"

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, completion: str) -> float:
        return self.value


class Relative:
    """Pays what is longer (or, with `sign` -1, shorter) than completions have been of late: the mean stays near 0
    however long they become."""

    execution = "inline"

    def __init__(self, sign: float) -> None:
        self.sign, self.lengths = sign, deque([3.0], maxlen=64)

    def __call__(self, completion: str) -> float:
        value = self.sign * (len(completion) - fmean(self.lengths))
        self.lengths.append(float(len(completion)))
        return value


class Turning:
    """Pays the right answer a first number of times, and from then on twice as much for a wrong one."""

    execution = "inline"

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, completion: str, answer: str) -> float:
        self.left -= 1
        right = completion[:1] == answer[:1]
        return float(right) if self.left >= 0 else 2.0 * (not right) + 1.0


def dozing(completion: str) -> float:
    """Takes its time; never ends where the completion begins with 0."""
    if completion.startswith("0"):
        time.sleep(60)
    time.sleep(0.01)
    return float(len(completion))


def solved_if_small(prompt: str) -> float:
    """Pays for a problem, whatever is said of it: 1 for the digits 0 and 1 of `small.Echo`, else 0."""
    return float(prompt[0] in "01")


solved_if_small.execution = "inline"  # type: ignore[attr-defined]


class Half:
    """Says something that is no text in UTF-8; of every other completion it says so by failing."""

    execution = "inline"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, completion: str) -> Score:
        self.calls += 1
        if self.calls % 2:
            raise RuntimeError("half: \ud800")
        return Score(float(len(completion)), info={"reason": "half: \ud800"})
