"""Sums, differences and products of two numbers.

The split is by unordered pair: the two orders of a pair of numbers are two problems of the same split.
"""

from __future__ import annotations

import operator
import string
from functools import lru_cache
from typing import Any

import numpy as np

from textenv.tokenizer import TinyTokenizer
from textenv.types import Problem

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class Arithmetic:
    """`What is a + b?` for all `low <= a, b <= high` (and `a + b <= max_sum`); the row holds `answer`, `a` and `b`.

    `test_size` pairs (each in both orders) are held out, drawn and shuffled by `seed`.
    """

    columns = frozenset({"answer", "a", "b"})

    def __init__(
        self,
        operation: str = "+",
        *,
        low: int = 10,
        high: int = 99,
        max_sum: int | None = None,
        template: str = "What is {a} {operation} {b}?",
        test_size: int = 100,
        seed: int = 0,
    ) -> None:
        if operation not in OPERATIONS:
            raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
        if not 0 <= low <= high:
            raise ValueError(f"low and high must satisfy 0 <= low <= high, got {low} and {high}")
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if not {"a", "b"} <= fields <= {"a", "b", "operation"}:
            raise ValueError(f"template must contain {{a}} and {{b}}, and may {{operation}}, got {template!r}")
        self.name = "arithmetic"
        self.operation, self.template = operation, template
        self._pairs = _split(low, high, max_sum, test_size, seed)

    def split(self, name: str) -> Pairs:
        """The problems of `"train"` or `"test"`."""
        if name not in self._pairs:
            raise ValueError(f"split must be one of {', '.join(self._pairs)}, got {name!r}")
        return Pairs(self._pairs[name], self.operation, self.template)

    def reward(self) -> Any:
        """1 when the last integer of the completion is the answer."""
        from rewards.math import LastInteger

        return {"correct": LastInteger()}

    def tokenizer(self) -> TinyTokenizer:
        """The characters of the prompts, and what an answer may need."""
        return TinyTokenizer("".join(sorted({*"0123456789-", *self.split("train")[0].prompt})))


class Pairs:
    """A sequence of problems over pairs of numbers."""

    def __init__(self, pairs: tuple[tuple[int, int], ...], operation: str, template: str) -> None:
        self._pairs, self._operation, self._template = pairs, operation, template

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Problem:
        a, b = self._pairs[index]
        prompt = self._template.format(a=a, b=b, operation=self._operation)
        return Problem(prompt, {"answer": OPERATIONS[self._operation](a, b), "a": a, "b": b})


@lru_cache(maxsize=32)
def _split(
    low: int, high: int, max_sum: int | None, test_size: int, seed: int
) -> dict[str, tuple[tuple[int, int], ...]]:
    unordered = [
        (a, b) for a in range(low, high + 1) for b in range(a, high + 1) if max_sum is None or a + b <= max_sum
    ]
    if not 1 <= test_size < len(unordered):
        raise ValueError(
            f"test_size must be from 1 to {len(unordered) - 1} (one less than there are pairs), got {test_size}"
        )
    generator = np.random.default_rng(seed)
    held_out = set(generator.permutation(len(unordered))[:test_size].tolist())
    parts = {
        "train": [pair for i, pair in enumerate(unordered) if i not in held_out],
        "test": [unordered[i] for i in sorted(held_out)],
    }
    return {name: _shuffled_orders(pairs, generator) for name, pairs in parts.items()}


def _shuffled_orders(pairs: list[tuple[int, int]], generator: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Each pair in both orders, shuffled."""
    ordered = [*pairs, *((b, a) for a, b in pairs if a != b)]
    return tuple(ordered[i] for i in generator.permutation(len(ordered)))
