"""What the viewer shows of a completion: one frozen record, with or without numbers for its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class TokenNumbers:
    """The tokens of a response, injected ones included, and what is known about each; L of them."""

    pieces: list[str]
    """Their texts; empty for a part of a character, which the last of its tokens shows."""
    special: np.ndarray
    """(L,) bool: the piece is a token's name, not text."""
    injected: np.ndarray
    """(L,) bool: the environment's, not the policy's."""
    clipped: np.ndarray
    """(L,) 1 clipped above, -1 below, else 0."""
    quantities: Mapping[str, np.ndarray]
    """(L,) float each, NaN where there is none: `logprob`, `entropy`, `advantage`, `log_ratio`, `value`,
    `log_ratio_now` (of a later policy) and `reference` (the reference policy's log-probability)."""

    def __len__(self) -> int:
        return len(self.pieces)


@dataclass(frozen=True, slots=True)
class Shown:
    """A completion. Those of one iteration and problem are a group and are shown together."""

    iteration: int
    problem: int
    episode: int
    prompt: str
    completion: str
    finish_reason: str
    reward: float
    valid: bool
    parts: Mapping[str, float]
    """Each part of the reward, unweighted."""
    question: str = ""
    """What a chat asked last, without the frame around it; empty: the prompt is all there is."""
    reason: str = ""
    part_reasons: Mapping[str, str] = field(default_factory=dict)
    tokens: TokenNumbers | None = None
