"""What costs next to nothing, so that something else is measured: a tokenizer and a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewards.types import Sample, Score


class WideTokenizer:
    """A character a token, in a vocabulary of a language model's size; one token in `per_end` ends the text.

    It decodes about as fast as text can be made, so that the environment is measured and not a tokenizer.
    """

    pad_id = 0
    start_ids: tuple[int, ...] = ()

    def __init__(self, size: int, per_end: int = 128) -> None:
        self.name, self.size = f"wide:{size}", size
        self.end_ids = frozenset(range(1, size, per_end))

    def __len__(self) -> int:
        return self.size

    def encode(self, text: str) -> list[int]:
        """A character's code."""
        return list(map(ord, text))

    def decode(self, ids: Any, *, skip_special: bool = True) -> str:
        """The characters of these codes; surrogates, which are none, stay as they are."""
        return np.asarray(ids, dtype="<i4").tobytes().decode("utf-32-le", "surrogatepass")

    def decode_batch(self, rows: Sequence[Any]) -> list[str]:
        """`decode` of each row: one text, cut."""
        text = self.decode(np.concatenate(rows)) if rows else ""
        ends = np.cumsum([len(row) for row in rows]).tolist()
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def render_chat(self, messages: Any, *, add_generation_prompt: bool = True) -> None:
        """None: there is no chat template."""

    def token_texts(self) -> list[str]:
        """A character a token."""
        return list(map(chr, range(self.size)))


class Free:
    """A reward that costs nothing."""

    def __init__(self) -> None:
        self.score = Score(1.0)

    def score_batch(self, samples: Sequence[Sample]) -> list[Score]:
        """1 for each."""
        return [self.score] * len(samples)
