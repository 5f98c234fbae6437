"""The text of every token, such that together they read as the completion does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from textenv import Tokenizer

BROKEN = "�"
LONGEST = 4
"""Tokens that a character may be spread over: UTF-8 has at most four bytes."""


class Pieces:
    """Texts of tokens. A character that several tokens write stands at the last of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._texts = tokenizer, tokenizer.token_texts()

    def of(self, ids: Sequence[int]) -> tuple[list[str], np.ndarray]:
        """The text of each token, and whether it is a special token's name."""
        texts: list[str] = []
        while len(texts) < len(ids):
            texts += self._next(ids[len(texts) : len(texts) + LONGEST])
        return texts, np.array([not self._texts[i] for i in ids], dtype=np.bool_)

    def _next(self, ids: Sequence[int]) -> list[str]:
        """The texts of the first token, or of the first few where they write one character together."""
        text = self._texts[ids[0]]
        if not text:
            return [self._tokenizer.decode(ids[:1], skip_special=False)]
        if BROKEN not in text:
            return [text]
        for count in range(2, len(ids) + 1):
            together = self._tokenizer.decode(ids[:count], skip_special=False)
            if BROKEN not in together:
                return [""] * (count - 1) + [together]
        return [text]
