"""Completions as compact data for the page: a column a field, every text once, numbers of tokens as 16-bit floats.

A completion of 24 tokens takes about 400 bytes; a few thousand of them are one or two megabytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from agents.view.shown import Shown, TokenNumbers

INJECTED, ABOVE, BELOW, SPECIAL = 1, 2, 4, 8
"""Flags of a token; the page knows the same numbers."""
MEANING = {
    "logprob": "Of the token as the sampler drew it. Dark: unlikely, a surprise.",
    "entropy": "Of the distribution that the token was drawn from. Dark: the policy was undecided.",
    "advantage": "As the update used it. Blue: made more likely, orange: less.",
    "log_ratio": "Probability in the update's last pass over that under the policy that acted. Blue: has "
    "become more likely. No colour: not in the update, or a ratio of 1 (one step per rollout).",
    "log_ratio_now": "Probability under the later policy over that under the one that acted. Blue: likelier now.",
    "clip": "In the update's last pass the ratio had left the clip range, so that the token had no gradient.",
}
ABSENT = {
    "entropy": "not stored by this run; logging.entropy=true beside logging.rollouts=true stores it.",
    "log_ratio_now": "checkpoint=last, best or an iteration shows what its policy makes of these tokens.",
}
"""What is said where a run has no such numbers."""
LARGEST = 60_000.0
"""What a 16-bit float still holds."""


def sound(text: str) -> str:
    r"""The text with half a surrogate pair replaced, which no file in UTF-8 and not every browser takes.

    >>> sound("a\ud800b") == "a\ufffdb", sound("\ud83d\ude42") == "\U0001f642"
    (True, True)
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Table:
    """Every text once, by the number of its first appearance."""

    def __init__(self, *texts: str) -> None:
        self._numbers = {text: i for i, text in enumerate(texts)}

    def __call__(self, text: str) -> int:
        return self._numbers.setdefault(sound(text), len(self._numbers))

    def __iter__(self) -> Any:
        return iter(self._numbers)


def packed(completions: Sequence[Shown], *, title: str, subtitle: str = "", notice: str = "") -> dict[str, Any]:
    """What the page reads; JSON. Completions of one iteration and problem are brought together, in order."""
    rows = sorted(completions, key=lambda one: (one.iteration, one.problem))
    strings, finishes = Table(""), Table()
    parts = sorted({name for one in rows for name in one.parts})
    data: dict[str, Any] = {
        "title": sound(title),
        "subtitle": sound(subtitle),
        "notice": sound(notice),
        "iteration": [one.iteration for one in rows],
        "problem": [one.problem for one in rows],
        "episode": [one.episode for one in rows],
        "prompt": [strings(one.prompt) for one in rows],
        "question": [strings(one.question) for one in rows],
        "completion": [sound(one.completion) for one in rows],
        "finish": [finishes(one.finish_reason) for one in rows],
        "reward": [rounded(one.reward) for one in rows],
        "valid": [int(one.valid) for one in rows],
        "reason": [strings(one.reason) for one in rows],
        "parts": [sound(name) for name in parts],
        "part_values": [[rounded(one.parts.get(name)) for one in rows] for name in parts],
        "part_reasons": [[strings(one.part_reasons.get(name, "")) for one in rows] for name in parts],
        "meaning": MEANING,
        "quantities": {},
        "absent": {},
        "start": [0],
    }
    if rows and all(one.tokens is not None for one in rows):
        data |= packed_tokens([one.tokens for one in rows if one.tokens is not None])
    return data | {"strings": list(strings), "finishes": list(finishes)}


def packed_tokens(rows: Sequence[TokenNumbers]) -> dict[str, Any]:
    """The tokens of all rows behind each other; `start[k]` is where row k begins."""
    texts = Table()
    numbers = np.array([texts(piece) for row in rows for piece in row.pieces], dtype="<u4")
    flags = [
        INJECTED * row.injected + ABOVE * (row.clipped > 0) + BELOW * (row.clipped < 0) + SPECIAL * row.special
        for row in rows
    ]
    names = dict.fromkeys(name for row in rows for name in row.quantities)
    columns = {
        name: joined([row.quantities.get(name, np.full(len(row), np.nan)) for row in rows], np.float64)
        for name in names
    }
    told = {name: column for name, column in columns.items() if np.isfinite(column).any()}
    return {
        "pieces": list(texts),
        "tokens": encoded(numbers),
        "flags": encoded(joined(flags, np.uint8)),
        "quantities": {name: encoded(halved(column)) for name, column in told.items()},
        "absent": {name: why for name, why in ABSENT.items() if name not in told},
        "clips": "log_ratio" in told,
        "injected": any(row.injected.any() for row in rows),
        "start": np.cumsum([0, *map(len, rows)]).tolist(),
    }


def joined(columns: Iterable[np.ndarray], dtype: Any) -> np.ndarray:
    """One behind the other."""
    return np.concatenate([np.zeros(0, dtype), *columns]).astype(dtype)


def halved(column: np.ndarray) -> np.ndarray:
    """As 16-bit floats, which keep three digits; larger numbers are cut off."""
    return np.clip(column, -LARGEST, LARGEST).astype("<f2")


def encoded(array: np.ndarray) -> str:
    """Bytes as text."""
    return base64.b64encode(array.tobytes()).decode("ascii")


def rounded(number: float | None) -> float | None:
    """Six digits are more than anybody reads.

    >>> rounded(0.1 + 0.2), rounded(None)
    (0.3, None)
    """
    return None if number is None else float(f"{number:.6g}")
