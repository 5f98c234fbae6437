"""Small puzzles about a few digits, which a tiny model can learn from scratch by reinforcement alone.

The split is by the set of digits with their counts: no rearrangement of a train problem occurs in testing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.types import Score
from textenv.tokenizer import TinyTokenizer
from textenv.types import Problem

OPERATIONS: dict[str, Callable[[str], str]] = {
    "copy": lambda digits: digits,
    "reverse": lambda digits: digits[::-1],
    "sort": lambda digits: "".join(sorted(digits)),
    "largest": lambda digits: max(digits),
}
TEMPLATE = "{digits}="
MAX_LENGTH = 5


class Digits:
    """All texts of `length` of the first `base` digits; the row holds `digits` and the `answer` that `operation` makes.

    `test_share` of the sets of digits are held out, with all their rearrangements, drawn and shuffled by `seed`.
    `operation`: `copy`, `reverse`, `sort`, `largest`.
    """

    columns = frozenset({"answer", "digits"})

    def __init__(
        self,
        operation: str = "reverse",
        *,
        length: int = 3,
        base: int = 10,
        template: str = TEMPLATE,
        test_share: float = 0.2,
        seed: int = 0,
    ) -> None:
        if operation not in OPERATIONS:
            raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
        for name, value, most in (("length", length, MAX_LENGTH), ("base", base, 10)):
            if not 2 <= value <= most:
                raise ValueError(f"{name} must be from 2 to {most}, got {value}")
        if template.count("{digits}") != 1:
            raise ValueError(f"template must contain {{digits}} once, got {template!r}")
        self.name, self.operation, self.template = "digits", operation, template
        self._splits = _split(length, base, test_share, seed)

    def split(self, name: str) -> list[Problem]:
        """The problems of `"train"` or `"test"`."""
        if name not in self._splits:
            raise ValueError(f"split must be one of {', '.join(self._splits)}, got {name!r}")
        answer = OPERATIONS[self.operation]
        return [
            Problem(self.template.replace("{digits}", digits), {"digits": digits, "answer": answer(digits)})
            for digits in self._splits[name]
        ]

    def reward(self) -> Any:
        """The share of the answer's places that are right; 1 only for the answer alone."""
        return {"right": RightDigits()}

    def tokenizer(self) -> TinyTokenizer:
        """The characters of the prompts and the digits."""
        return TinyTokenizer("".join(sorted({*"0123456789", *self.template.replace("{digits}", "")})))


@dataclass(frozen=True)
class RightDigits:
    """The share of right places, out of those of the answer or the completion, whichever is longer.

    >>> [float(RightDigits()(completion=text, answer="123")) for text in ("123", "129", "1", "1234", "")]
    [1.0, 0.6666666666666666, 0.3333333333333333, 0.75, 0.0]
    """

    execution = "inline"

    def __call__(self, completion: str, answer: str) -> Score:
        right = sum(a == b for a, b in zip(completion, answer, strict=False))
        return Score(right / max(len(completion), len(answer)))


def _split(length: int, base: int, test_share: float, seed: int) -> dict[str, list[str]]:
    sets = list(itertools.combinations_with_replacement("0123456789"[:base], length))
    if not 1 <= round(test_share * len(sets)) < len(sets):
        raise ValueError(f"test_share must leave sets of digits on both sides, got {test_share} of {len(sets)} sets")
    generator = np.random.default_rng(seed)
    held_out = set(generator.permutation(len(sets))[: round(test_share * len(sets))].tolist())
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for number, digits in enumerate(sets):
        texts = sorted({"".join(order) for order in itertools.permutations(digits)})
        parts["test" if number in held_out else "train"] += texts
    return {name: [texts[i] for i in generator.permutation(len(texts))] for name, texts in parts.items()}
