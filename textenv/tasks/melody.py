"""Go on with a melody, for a listener whose taste has to be found out: the task of `experiment=rlhf`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from rewards.listener import NOTES, Listener
from textenv.tokenizer import TinyTokenizer
from textenv.types import Problem


class Melody:
    """The prompt is two different notes, the completion goes on from there; a note is a letter from a to x.

    No beginning is in both splits; `test_size` of the 552 are drawn by `seed`. The reward is `Listener` with `taste` as
    its seed and all else at its defaults.
    """

    columns: frozenset[str] = frozenset()

    def __init__(self, *, test_size: int = 100, taste: int = 0, seed: int = 0) -> None:
        beginnings = ["".join(two) for two in permutations(NOTES, 2)]
        if not 1 <= test_size < len(beginnings):
            raise ValueError(f"test_size must be from 1 to {len(beginnings) - 1}, got {test_size}")
        self.name, self.taste = "melody", taste
        order = np.random.default_rng(seed).permutation(len(beginnings))
        problems = [Problem(beginnings[i]) for i in order]
        self._splits = {"train": problems[test_size:], "test": problems[:test_size]}

    def split(self, name: str) -> Sequence[Problem]:
        """The problems of `"train"` or `"test"`."""
        if name not in self._splits:
            raise ValueError(f"split must be one of {', '.join(self._splits)}, got {name!r}")
        return self._splits[name]

    def reward(self) -> Any:
        """The listener."""
        return {"listener": Listener(seed=self.taste)}

    def tokenizer(self) -> TinyTokenizer:
        """The notes."""
        return TinyTokenizer(NOTES)
