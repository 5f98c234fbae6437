"""Every procedural data set of `reasoning-gym` (arXiv 2505.24760), each with its own verifier, under one task."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rewards.types import Score
from textenv.random_state import RandomState
from textenv.types import Problem

MAX_DRAWS = 50
"""Data sets that are tried for a train problem whose question is not in the test split."""
EXACT = frozenset({"game_of_life_halting"})
"""Their own verifier accepts any text: the answer is compared here."""
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class ReasoningGym:
    """Problems of one data set by name (`datasets()` lists them), or of several in turn.

    `settings` are those of the data set. Both splits are computed by index, from different seeds; a train problem
    whose question is also in the test split is replaced by the next that is not. The verifier judges what stands in the
    last `<answer>...</answer>`, else the whole completion. Some generators take a second a problem (futoshiki,
    knight_swap): the environment's `max_prompt_tokens` spares most of the measuring. Raises `ValueError` when the
    package is missing, for an unknown data set and for settings that it refuses.
    """

    columns = frozenset({"dataset", "entry"})

    def __init__(
        self,
        dataset: str | Sequence[str] = "chain_sum",
        *,
        settings: Mapping[str, Any] | None = None,
        train_size: int = 1000,
        test_size: int = 100,
        seed: int = 0,
    ) -> None:
        names = [dataset] if isinstance(dataset, str) else list(dataset)
        if not names:
            raise ValueError("dataset must name at least one data set, got none")
        for setting, value in (("train_size", train_size), ("test_size", test_size)):
            if value < len(names):
                raise ValueError(f"{setting} must be at least {len(names)}, one problem a data set, got {value}")
        self.name = f"reasoning_gym:{'+'.join(names)}"
        chosen = dict(settings or {})
        for key in ("size", "seed"):
            if key in chosen:
                raise ValueError(f"settings must not have {key!r}: it is train_size, test_size or seed of the task")
        test = Source("test", names, test_size, chosen, seed=seed, avoid=frozenset())
        train = Source("train", names, train_size, chosen, seed=seed, avoid=test.questions())
        self._splits = {"train": train, "test": test}
        self._settings = chosen

    def split(self, name: str) -> Source:
        """The problems of `"train"` or `"test"`."""
        if name not in self._splits:
            raise ValueError(f"split must be one of {', '.join(self._splits)}, got {name!r}")
        return self._splits[name]

    def reward(self) -> Any:
        """What the data set's own verifier says, from 0 to 1."""
        return {"verified": Verified(self._settings)}


class Source:
    """A sequence of problems, every data set in turn."""

    def __init__(
        self,
        split: str,
        names: Sequence[str],
        size: int,
        settings: Mapping[str, Any],
        *,
        seed: int,
        avoid: frozenset[int],
    ) -> None:
        self._split, self._names, self._size, self._avoid = split, names, size, avoid
        self._settings, self._seed = settings, seed
        self._data: dict[tuple[str, int], Any] = {}
        for name in names:
            self._entry(name, 0, 0)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Problem:
        if not 0 <= index < self._size:
            raise IndexError(index)
        name = self._names[index % len(self._names)]
        failure: Exception | None = None
        for draw in range(MAX_DRAWS):
            try:
                entry = self._entry(name, index // len(self._names), draw)
            except Exception as error:  # noqa: BLE001  (some generators fail for some seeds; another draw will do)
                failure = error
                continue
            if fingerprint(entry["question"]) not in self._avoid:
                return Problem(entry["question"], {"dataset": name, "entry": entry})
        if failure is not None:
            raise ValueError(f"data set {name!r} gives no problem {index}: {type(failure).__name__}: {failure}")
        raise ValueError(f"test_size must be smaller: data set {name!r} has too few questions that are not in the test")

    def questions(self) -> frozenset[int]:
        """Fingerprints of all questions."""
        return frozenset(fingerprint(self[index].prompt) for index in range(self._size))

    def _entry(self, name: str, place: int, draw: int) -> Any:
        """Problem `place` of a data set; `draw` counts the data sets tried in its stead. Most of them seed a generator
        with seed + place, so seeds are far apart; some draw from the global generators, which get a state of their own.
        """
        seed = zlib.crc32(f"{self._split} {self._seed} {draw}".encode()) >> 1
        if (name, draw) not in self._data:
            self._data[name, draw] = create(name, {**self._settings, "size": self._size, "seed": seed})
        with RandomState.seeded((seed + place) % 2**32).in_place():
            return self._data[name, draw][place]


@dataclass(frozen=True)
class Verified:
    """Asks the verifier of the problem's data set; runs in a worker, since some of them search.

    Not all of them are careful: some hand the answer to `eval` or to sympy's parser. Train untrusted models in a
    container.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        datasets()  # the import takes seconds, which are not those of the first call
        self.__dict__.update(state)

    def __call__(self, completion: str, dataset: str, entry: Mapping[str, Any]) -> Score:
        found = ANSWER.findall(completion)
        written = found[-1] if found else completion
        if dataset in EXACT:
            return Score(float(written.strip().lower() == str(entry["answer"]).lower()))
        judge = verifier(dataset, json.dumps(self.settings, sort_keys=True))
        try:
            return Score(max(float(judge.score_answer(answer, dict(entry))) for answer in {written, written.strip()}))
        except Exception as error:  # noqa: BLE001  (some verifiers raise on what they cannot parse)
            judge.score_answer(entry["answer"], dict(entry))  # raises too where the answer is not to blame
            return Score(0.0, info={"reason": f"not parsed: {type(error).__name__}: {error}"})


@cache
def verifier(name: str, settings: str) -> Any:
    """The data set that judges answers; `settings` are JSON."""
    return create(name, {**json.loads(settings), "size": 1, "seed": 0})


def create(name: str, settings: Mapping[str, Any]) -> Any:
    """A data set of the package."""
    known = datasets()
    if name not in known:
        raise ValueError(f"dataset must be one of the {len(known)} of reasoning-gym ({', '.join(known)}), got {name!r}")
    from reasoning_gym import create_dataset

    try:
        return create_dataset(name, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"data set {name!r} cannot be built from {dict(settings)}: {error}") from error


def datasets() -> list[str]:
    """The names of all data sets. Raises `ValueError` when the package is missing."""
    try:
        import reasoning_gym  # noqa: F401  (importing it fills the registry)
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ValueError("task reasoning_gym needs the package reasoning-gym: pip install reasoning-gym") from error
    return sorted(name for name in DATASETS if name != "composite")


def fingerprint(question: Any) -> int:
    """A short stand-in for a question."""
    return zlib.crc32(str(question).encode())
