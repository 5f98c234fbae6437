"""Follow a format: answer with one JSON object that has the keys and values asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.types import Score
from textenv.types import Problem

NAMES = ("Ada", "Bo", "Chen", "Dana", "Eli", "Fatima", "Goro", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Mira", "Nils")
PLACES = ("Accra", "Bergen", "Cusco", "Delhi", "Erfurt", "Fez", "Graz", "Hanoi", "Izmir", "Jena", "Kyoto", "Lima")
COLOURS = ("red", "green", "blue", "black", "white", "yellow")
FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
MAX_CHARACTERS = 20_000
"""Of a completion that is looked at."""


class JsonFormat:
    """Facts about a person, to be written as a JSON object with given keys: `answer` in the row is that object.

    Problems are drawn by `seed`; no combination of facts is in both splits.
    """

    columns = frozenset({"answer"})

    def __init__(self, *, train_size: int = 2000, test_size: int = 100, seed: int = 0) -> None:
        most = len(NAMES) * len(PLACES) * 70
        if min(train_size, test_size) < 1 or 2 * (train_size + test_size) > most:
            raise ValueError(
                f"train_size and test_size must be at least 1 and together at most {most // 2}, got {train_size} and "
                f"{test_size}"
            )
        self.name = "json_format"
        generator = np.random.default_rng(seed)
        facts: dict[tuple[str, str, int], dict[str, Any]] = {}
        while len(facts) < train_size + test_size:
            person = draw_person(generator)
            facts.setdefault((person["name"], person["city"], person["age"]), person)
        problems = tuple(as_task_problem(person) for person in facts.values())
        self._splits = {"train": problems[test_size:], "test": problems[:test_size]}

    def split(self, name: str) -> Sequence[Problem]:
        """The problems of `"train"` or `"test"`."""
        if name not in self._splits:
            raise ValueError(f"split must be one of {', '.join(self._splits)}, got {name!r}")
        return self._splits[name]

    def reward(self) -> Any:
        """The share of right entries, if the completion is one JSON object."""
        return {"json": JsonMatches()}


def draw_person(generator: np.random.Generator) -> dict[str, Any]:
    """Facts of every JSON type."""
    return {
        "name": NAMES[int(generator.integers(len(NAMES)))],
        "age": int(generator.integers(20, 90)),
        "city": PLACES[int(generator.integers(len(PLACES)))],
        "member": bool(generator.integers(2)),
        "colours": [COLOURS[i] for i in generator.permutation(len(COLOURS))[: int(generator.integers(1, 4))]],
    }


def as_task_problem(person: Mapping[str, Any]) -> Problem:
    """The facts in words, and the object that is wanted."""
    member = "a member" if person["member"] else "not a member"
    text = (
        f"{person['name']} is {person['age']} years old, lives in {person['city']}, is {member}, and likes "
        f"{' and '.join(person['colours'])}. Write this as one JSON object with the keys {', '.join(person)} "
        "(text, whole number, text, true or false, list of texts), and nothing else."
    )
    return Problem(text, {"answer": dict(person)})


@dataclass(frozen=True)
class JsonMatches:
    """The share of `answer`'s entries that the completion's object has, in type and value, over all keys of the two; 0
    where the completion is not one JSON object, bare or in one fenced block.

    >>> JsonMatches()(completion='{"a": 1, "b": "x"}', answer={"a": 1, "b": "y"}).value
    0.5
    """

    execution = "inline"

    def __call__(self, completion: str, answer: Mapping[str, Any]) -> Score:
        try:
            found = json.loads(object_text(completion), object_pairs_hook=without_repetition)
        except (ValueError, RecursionError) as error:
            return Score(0.0, info={"reason": f"not one JSON object: {error}"})
        if not isinstance(found, dict):
            return Score(0.0, info={"reason": f"JSON, but no object: {type(found).__name__}"})
        keys = {*found, *answer}
        right = [key for key in keys if key in found and key in answer and same(found[key], answer[key])]
        return Score(len(right) / len(keys), info={"reason": f"{len(right)} of {len(keys)} entries"})


def object_text(completion: str) -> str:
    """The text that should be JSON. Raises `ValueError` for two fenced blocks, or one that is too long."""
    if len(completion) > MAX_CHARACTERS:
        raise ValueError(f"more than {MAX_CHARACTERS} characters")
    blocks = FENCE.findall(completion)
    if len(blocks) > 1:
        raise ValueError(f"{len(blocks)} fenced blocks")
    return blocks[0] if blocks else completion


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; `ValueError` for a key that stands in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def same(a: Any, b: Any) -> bool:
    """Equal in value and in JSON type: 1 is neither true nor "1"."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and type(a) in (type(b), int, float) and a == b
