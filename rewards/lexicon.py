"""A reward for words: each that is found adds its weight, a limited number of times."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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

    execution = "inline"  # a bounded number of literal words, in a bounded text

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
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

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
        object.__setattr__(self, "_pattern", _pattern(weights, whole_words=self.whole_words))

    def __call__(self, completion: str) -> Score:
        if len(completion) > self.max_chars:
            return Score(self.low, info={"reason": f"longer than {self.max_chars} characters"})
        counts = Counter(self._pattern.findall(self._form(completion)))
        total = sum(self._weights[word] * min(count, self.max_count) for word, count in counts.items())
        told = ", ".join(f"{word} x{count}" for word, count in counts.most_common(10))
        return Score(
            min(max(total, self.low), self.high),
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


def _pattern(words: Iterable[str], *, whole_words: bool) -> re.Pattern[str]:
    """Literal alternatives, the longest first: at each place of the text a bounded number of comparisons."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(_literal(word, whole_words=whole_words) for word in longest_first))


def _literal(word: str, *, whole_words: bool) -> str:
    """A boundary is asked for beside letters and digits only: the end of `C++` is one by itself."""
    before = r"(?<!\w)" if whole_words and re.match(r"\w", word) else ""
    after = r"(?!\w)" if whole_words and re.match(r"\w", word[-1]) else ""
    return before + re.escape(word) + after
