"""Small jobs on a random word: reverse it, sort its letters, drop its vowels, ..."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from textenv.tasks.text import ExactMatch
from textenv.tokenizer import TinyTokenizer
from textenv.types import Problem

LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPERATIONS: dict[str, tuple[str, Callable[[str], str]]] = {
    "reverse": ("Write {word} backwards:", lambda word: word[::-1]),
    "upper": ("Write {word} in capitals:", str.upper),
    "sort": ("Write the letters of {word} in alphabetical order:", lambda word: "".join(sorted(word))),
    "drop_vowels": (
        "Write {word} without a, e, i, o and u:",
        lambda word: re.sub("[aeiou]", "", word),
    ),
    "double": ("Write every letter of {word} twice:", lambda word: "".join(2 * c for c in word)),
    "first_last": ("Write the first and the last letter of {word}:", lambda word: word[0] + word[-1]),
}


class Strings:
    """Words of `min_length` to `max_length` letters, each with one of `operations`, drawn by `seed`; no word is in both
    splits. The row holds `answer`, `word` and `operation`.
    """

    columns = frozenset({"answer", "word", "operation"})

    def __init__(
        self,
        operations: Sequence[str] = tuple(OPERATIONS),
        *,
        min_length: int = 3,
        max_length: int = 8,
        train_size: int = 5000,
        test_size: int = 200,
        seed: int = 0,
    ) -> None:
        unknown = [name for name in operations if name not in OPERATIONS]
        if unknown or not operations:
            raise ValueError(f"operations must be among {', '.join(OPERATIONS)}, got {list(operations)}")
        if not 2 <= min_length <= max_length:
            raise ValueError(f"min_length and max_length must satisfy 2 <= min <= max, got {min_length}, {max_length}")
        available = sum(len(LETTERS) ** size for size in range(min_length, max_length + 1))
        if min(train_size, test_size) < 1 or 2 * (train_size + test_size) > available:
            raise ValueError(
                f"train_size and test_size must be at least 1 and together at most {available // 2}, half of the words "
                f"there are, got {train_size} and {test_size}"
            )
        self.name = "strings"
        self.operations = tuple(operations)
        problems = self._draw(min_length, max_length, train_size + test_size, np.random.default_rng(seed))
        self._splits = {"train": problems[test_size:], "test": problems[:test_size]}

    def split(self, name: str) -> Sequence[Problem]:
        """The problems of `"train"` or `"test"`."""
        if name not in self._splits:
            raise ValueError(f"split must be one of {', '.join(self._splits)}, got {name!r}")
        return self._splits[name]

    def reward(self) -> Any:
        """1 for exactly the answer."""
        return {"exact": ExactMatch()}

    def tokenizer(self) -> TinyTokenizer:
        """Letters and what the prompts need."""
        return TinyTokenizer("".join(sorted({*LETTERS, *LETTERS.upper(), *" :,"})))

    def _draw(self, low: int, high: int, count: int, generator: np.random.Generator) -> tuple[Problem, ...]:
        words: dict[str, None] = {}
        while len(words) < count:
            size = int(generator.integers(low, high + 1))
            words["".join(LETTERS[i] for i in generator.integers(len(LETTERS), size=size))] = None
        return tuple(
            self._problem(word, self.operations[int(generator.integers(len(self.operations)))]) for word in words
        )

    def _problem(self, word: str, operation: str) -> Problem:
        prompt, function = OPERATIONS[operation]
        return Problem(prompt.format(word=word), {"answer": function(word), "word": word, "operation": operation})
