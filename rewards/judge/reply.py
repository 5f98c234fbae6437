"""What one question to a judge gave and cost, whatever the backend."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.errors import Failure


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or the reason why there is none."""

    text: str = ""
    failure: Failure | None = None
    """Set where the backend gave no answer."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """In the currency of the prices that were given."""
    requests: int = 1
    """Those made for this one question; all but the first are retries."""
