"""Scores that were given before, by everything that they depend on: the reward, its version, and what it was shown."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from rewards.types import Score


class ScoreCache:
    """The scores last asked for, at most `size` of them. A reward that changes says so by its attribute `version`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._scores: OrderedDict[bytes, Score] = OrderedDict()

    @staticmethod
    def key(name: str, fn: Any, keywords: Mapping[str, Any]) -> bytes | None:
        """Of one call; None where an argument cannot be written down, so that nothing is kept of it."""
        try:
            written = pickle.dumps((name, getattr(fn, "version", None), sorted(keywords.items())))
        except Exception:  # noqa: BLE001 - pickling runs the code of the row's values
            return None
        return hashlib.sha256(written).digest()

    def get(self, key: bytes | None) -> Score | None:
        """The score, if it is known; it is then the last to be forgotten."""
        score = self._scores.get(key) if key is not None else None
        if score is not None and key is not None:
            self._scores.move_to_end(key)
        return score

    def put(self, key: bytes | None, score: object) -> None:
        """Keep a score; a failure is never kept, since the next call may succeed."""
        if key is None or not isinstance(score, Score):
            return
        self._scores[key] = score
        self._scores.move_to_end(key)
        if len(self._scores) > self._size:
            self._scores.popitem(last=False)
