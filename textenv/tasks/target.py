"""A toy for trying agents out: write one fixed word of ten letters.

There is nothing to generalize, so, unlike in any other task, train and test hold the same single problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.types import Score
from textenv.tokenizer import TinyTokenizer
from textenv.types import Problem

LETTERS = "abcdefghi"
PROMPT = ":"


class Target:
    """The prompt is `:`, the answer a word of `length` letters drawn by `seed`, the reward the share of right places.

    `dense=True` pays each right letter where it stands (spans) instead of all at the end; the sum is the same.
    The vocabulary has 12 tokens: `:`, nine letters, EOS and PAD.
    """

    columns = frozenset({"answer"})

    def __init__(self, length: int = 10, *, dense: bool = False, seed: int = 0) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.name = "target"
        self.dense = dense
        self.answer = "".join(LETTERS[i] for i in np.random.default_rng(seed).integers(len(LETTERS), size=length))

    def split(self, name: str) -> list[Problem]:
        """The one problem."""
        if name not in ("train", "test"):
            raise ValueError(f"split must be one of train, test, got {name!r}")
        return [Problem(PROMPT, {"answer": self.answer})]

    def reward(self) -> Any:
        """The share of right places."""
        return {"right": RightPlaces(dense=self.dense)}

    def tokenizer(self) -> TinyTokenizer:
        """Prompt and letters."""
        return TinyTokenizer(PROMPT + LETTERS)


@dataclass(frozen=True)
class RightPlaces:
    """The share of the answer's letters that stand at their place in the completion.

    >>> RightPlaces()(completion="abxd", answer="abcdef").value
    0.5
    """

    dense: bool = False
    execution = "inline"

    def __call__(self, completion: str, answer: str) -> Score:
        places = [i for i, (a, b) in enumerate(zip(completion, answer, strict=False)) if a == b]
        if self.dense:
            return Score(0.0, spans=tuple((i, i + 1, 1 / len(answer)) for i in places))
        return Score(len(places) / len(answer))
