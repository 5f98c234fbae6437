"""How an episode ends: end tokens, stop strings, the budget.

A stop string may span tokens and may begin or end inside one; only what the policy wrote counts. One boolean per
vocabulary entry says which tokens could complete a stop string, so that text is decoded for those rows alone, and
only a tail of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textenv.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class StopSpec:
    """What ends an episode; published, so that a policy's proposals need not run past it."""

    end_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    max_new_tokens: int


class StopMatcher:
    """Looks for the stop strings in what a policy wrote; `empty` when there are none."""

    def __init__(self, stop_strings: Sequence[str], tokenizer: Tokenizer) -> None:
        self.stop_strings = tuple(stop_strings)
        self.empty = not self.stop_strings
        self._tokenizer = tokenizer
        texts = [] if self.empty else tokenizer.token_texts()
        self.may_complete = np.array([may_complete(text, self.stop_strings) for text in texts], dtype=np.bool_)
        self._silent = np.array([not text for text in texts], dtype=np.bool_)
        # Every token that takes part gives at least one byte; the rest is for a character cut at the window's start.
        self._window = max((len(stop.encode()) for stop in self.stop_strings), default=0) + 4

    def matches(self, completions: Sequence[np.ndarray]) -> list[bool]:
        """Whether each completion's text holds a stop string, given that it held none one token ago."""
        texts = self._tokenizer.decode_batch([self._tail(ids) for ids in completions])
        return [any(stop in text for stop in self.stop_strings) for text in texts]

    def cut(self, text: str, *, include_stop: bool) -> str:
        """The text up to its first stop string, or through it."""
        found = [(text.find(stop), len(stop)) for stop in self.stop_strings if stop in text]
        if not found:
            return text
        start, length = min(found)
        return text[: start + length * include_stop]

    def _tail(self, ids: np.ndarray) -> np.ndarray:
        tail = ids[-self._window :]
        return ids if self._silent[tail].any() else tail


def may_complete(text: str, stop_strings: Sequence[str]) -> bool:
    """Whether a token of this text could be the one with which a stop string is complete.

    >>> [may_complete(text, ["</a>"]) for text in ("</a>!", ">x", "a>", "</a", "b>")]
    [True, True, True, False, False]
    """
    return any(
        stop in text
        or any(text.startswith(stop[start:]) for start in range(1, len(stop)))
        or ("\ufffd" in text and not stop.isascii())
        for stop in stop_strings
    )
