"""A reward for words: each that is found adds its weight, a limited number of times."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rewards.types import Score

MAX_WORDS = 1000


@dataclass(frozen=True)
class Lexicon:
    """The weights of the words and phrases found, summed and kept between `low` and `high`.

    Text is compared in Unicode's composed form (NFC). Where two fit at the same place the longer one counts, and no
    letter counts twice. White space inside a phrase stands for any white space.

    >>> polite = Lexicon({"please": 0.5, "thank you": 0.5, "stupid": -1.0})
    >>> [polite(completion=text).value for text in ("Thank  you, please.", "stupid", "pleased")]
    [1.0, -1.0, 0.0]
    """

    execution = "inline"  # at each letter of a bounded text at most as many steps as the longest word has

    words: Mapping[str, float] | Iterable[str]
    """Words with their weights; a plain list gives each 1.0."""
    whole_words: bool = True
    """Only between word boundaries: `cat` is not in `concatenate`."""
    match_case: bool = False
    max_count: int = 1
    """How often a word may count, so that saying it again and again does not pay."""
    low: float = -1.0
    high: float = 1.0
    max_chars: int = 100_000
    """A longer completion scores `low`, unseen."""
    _weights: Mapping[str, float] = field(init=False, repr=False, compare=False)
    _tree: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise ValueError(f"low must be at most high, and both finite, got {self.low!r} and {self.high!r}")
        for name in ("max_count", "max_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        pairs = _weighted(self.words)
        weights = {self._form(word): float(weight) for word, weight in pairs}
        if len(weights) < len(pairs):
            raise ValueError(f"words must differ in more than case and spaces, got {[word for word, _ in pairs]}")
        object.__setattr__(self, "_weights", weights)
        object.__setattr__(self, "_tree", _tree(weights))

    def __call__(self, completion: str) -> Score:
        if len(completion) > self.max_chars:
            return Score(self.low, info={"reason": f"longer than {self.max_chars} characters"})
        counts = Counter(_found(self._form(completion), self._tree, whole_words=self.whole_words))
        total = sum(self._weights[word] * min(count, self.max_count) for word, count in counts.items())
        told = ", ".join(f"{word} x{count}" for word, count in counts.most_common(10))
        return Score(
            float(min(max(total, self.low), self.high)),
            metrics={"found": float(counts.total())},
            info={"reason": f"found {told}" if told else "found none of the words"},
        )

    def _form(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        return " ".join((text if self.match_case else text.casefold()).split())


def _weighted(words: Mapping[str, float] | Iterable[str]) -> list[tuple[str, float]]:
    if isinstance(words, str):
        raise ValueError(f"words must be a list or a mapping of words to weights, got the text {words!r}")
    pairs = list(words.items()) if isinstance(words, Mapping) else [(word, 1.0) for word in words]
    if not 1 <= len(pairs) <= MAX_WORDS:
        raise ValueError(f"words must be from 1 to {MAX_WORDS}, got {len(pairs)}")
    for word, weight in pairs:
        if not isinstance(word, str) or not word.strip():
            raise ValueError(f"words must be texts that are not empty, got {word!r}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"the weight of {word!r} must be a finite number, got {weight!r}")
    return pairs


def _tree(words: Iterable[str]) -> dict[str, Any]:
    """Words by their letters; where one ends, it stands under the empty letter."""
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = word
    return root


def _found(text: str, tree: Mapping[str, Any], *, whole_words: bool) -> Iterator[str]:
    """The words in a text from left to right, at each place the longest one."""
    place = 0
    while place < len(text):
        word = "" if whole_words and _inside_a_word(text, place) else _longest(text, place, tree, whole_words)
        if word:
            yield word
        place += len(word) or 1


def _longest(text: str, start: int, tree: Mapping[str, Any], whole_words: bool) -> str:
    longest, node = "", tree
    for place in range(start, len(text)):
        if text[place] not in node:
            break
        node = node[text[place]]
        if "" in node and not (whole_words and _inside_a_word(text, place + 1)):
            longest = node[""]
    return longest


def _inside_a_word(text: str, place: int) -> bool:
    """Whether letters or digits stand on both sides of a place: the end of `C++` is an end, whatever follows."""
    return 0 < place < len(text) and _is_letter(text[place - 1]) and _is_letter(text[place])


def _is_letter(symbol: str) -> bool:
    return symbol.isalnum() or symbol == "_"
