"""Problems given in place: a list of prompts with their columns, in Python or as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.types import Score
from textenv.types import Problem, as_problem


class Problems:
    """`problems` and, for testing, `test` problems: text, chat messages, or mappings with `prompt` and columns.

    `columns` are those that every problem has. Without `reward`, a task whose problems have an `answer` pays 1 for a
    completion that equals it.

    >>> Problems(["Hello.", {"prompt": "1 + 1 =", "answer": "2"}]).split("train")[1].row
    {'answer': '2'}
    """

    def __init__(
        self, problems: Iterable[Any], *, test: Iterable[Any] = (), reward: Any = None, name: str = "text"
    ) -> None:
        for setting, value in (("problems", problems), ("test", test)):
            if isinstance(value, str | Mapping):
                raise ValueError(f"{setting} must be a list of problems, got {value!r}")
        self.name = name
        self._splits = {"train": _problems("problems", problems), "test": _problems("test", test)}
        everything = [*self._splits["train"], *self._splits["test"]]
        if not everything:
            raise ValueError("problems must hold at least one problem, got none")
        trained = [problem.prompt for problem in self._splits["train"]]
        for problem in self._splits["test"]:
            if problem.prompt in trained:
                raise ValueError(f"test must not hold a prompt of problems, got {problem.prompt!r} in both")
        self.columns = frozenset.intersection(*(frozenset(problem.row) for problem in everything))
        self._reward = reward
        self.examines = reward is not None

    def split(self, name: str) -> Sequence[Problem]:
        """The problems of `"train"` or `"test"`."""
        if name not in self._splits:
            raise ValueError(f"split must be one of {', '.join(self._splits)}, got {name!r}")
        return self._splits[name]

    def reward(self) -> Any:
        """The one given, or equality with `answer`; `ValueError` when there is neither."""
        return own_reward(self._reward, self.name, self.columns)


@dataclass(frozen=True)
class ExactMatch:
    """1 when completion and answer are equal but for space around them.

    >>> float(ExactMatch()(completion=" 42\\n", answer=42))
    1.0
    """

    execution = "inline"

    def __call__(self, completion: str, answer: Any) -> Score:
        return Score(float(completion.strip() == str(answer).strip()))


def own_reward(reward: Any, name: str, columns: frozenset[str]) -> Any:
    """The reward of a task of the user's."""
    if reward is not None:
        return reward
    if "answer" in columns:
        return {"exact": ExactMatch()}
    raise ValueError(
        f"reward must be given: task {name!r} has no column 'answer' to compare with, it has {sorted(columns)}"
    )


def _problems(setting: str, values: Iterable[Any]) -> tuple[Problem, ...]:
    problems = []
    for place, value in enumerate(values):
        try:
            problems.append(as_problem(value))
        except ValueError as error:
            raise ValueError(f"{setting}[{place}]: {error}") from error
    return tuple(problems)
