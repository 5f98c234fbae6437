"""A game of several turns: guess a number, hear `higher` or `lower`, guess again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.types import Message, Score
from textenv.conversation import Reply
from textenv.types import Problem

PROMPT = "I think of a number from {low} to {high}. Guess it in at most {turns} turns; say one number a turn."


class Guess:
    """One problem a secret number from `low` to `high`; `test_share` of the numbers are held out, drawn by `seed`.

    The policy ends each guess with its end token. The reward is 1 for a guess that hits within `max_turns`, plus
    nothing for being quick: a turn costs budget.
    """

    columns = frozenset({"secret"})
    turn_ends: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        low: int = 1,
        high: int = 20,
        max_turns: int = 5,
        test_share: float = 0.2,
        seed: int = 0,
        max_injected_tokens: int = 256,
    ) -> None:
        if not 0 <= low < high < 10**9:
            raise ValueError(f"low must be below high, both from 0 to 999,999,999, got {low} and {high}")
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, got {max_turns}")
        if not 0 < test_share < 1:
            raise ValueError(f"test_share must be above 0 and below 1, got {test_share}")
        self.name = "guess"
        self.low, self.high, self.max_turns = low, high, max_turns
        self.max_injected_tokens = max_injected_tokens
        secrets = np.random.default_rng(seed).permutation(np.arange(low, high + 1)).tolist()
        held_out = max(1, min(len(secrets) - 1, round(test_share * len(secrets))))
        self._splits = {"train": secrets[held_out:], "test": secrets[:held_out]}

    def split(self, name: str) -> Sequence[Problem]:
        """The secrets of `"train"` or `"test"`."""
        if name not in self._splits:
            raise ValueError(f"split must be one of {', '.join(self._splits)}, got {name!r}")
        prompt = PROMPT.format(low=self.low, high=self.high, turns=self.max_turns)
        return [Problem(prompt, {"secret": secret}) for secret in self._splits[name]]

    def reward(self) -> Any:
        """1 when the last guess was right."""
        return {"found": Found()}

    def converse(self, problem: Problem) -> HigherOrLower:
        """The one who thinks of the number."""
        return HigherOrLower(problem.row["secret"], self.max_turns)


class HigherOrLower:
    """Says `higher`, `lower`, or that it heard no number; stops at the right guess and behind the last turn."""

    def __init__(self, secret: int, max_turns: int) -> None:
        self.secret, self.turns_left = secret, max_turns

    def reply(self, text: str) -> Reply:
        """What there is to say to a guess."""
        self.turns_left -= 1
        guess = last_number(text)
        if guess == self.secret or self.turns_left == 0:
            return Reply(done=True)
        if guess is None:
            return Reply("Say a number.")
        return Reply("Higher." if guess < self.secret else "Lower.")


@dataclass(frozen=True)
class Found:
    """1 when the number in the policy's last turn is the secret.

    >>> Found()(messages=[{"role": "assistant", "content": "12, I think"}], secret=12).value
    1.0
    """

    execution = "inline"

    def __call__(self, messages: Sequence[Message], secret: int) -> Score:
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        return Score(float(bool(said) and last_number(said[-1]) == secret))


def last_number(text: str) -> int | None:
    """The last number of at most nine digits in a text."""
    found = re.findall(r"(?<!\d)\d{1,9}(?!\d)", text)
    return int(found[-1]) if found else None
