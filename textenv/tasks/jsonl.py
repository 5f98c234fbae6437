"""A user's own problems from a JSON-lines file, its columns mapped to names that rewards ask for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenv.tasks.text import own_reward
from textenv.types import Problem, as_problem


class JsonlTask:
    """One problem a line. `prompt` names the column with the prompt, text or chat messages.

    `columns` maps the names of ours to the names in the file (`{"answer": "solution"}`); None keeps every column of
    the first line. The test split is `test_path`, or, without one, the `test_share` of the prompts that a hash picks,
    whatever their order; a train problem whose prompt is also in the test file is left out. `limit` bounds the
    lines that are read.
    Raises `ValueError` with file and line number for a line that does not parse or lacks a column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        prompt: str = "question",
        columns: Mapping[str, str] | None = None,
        test_path: str | Path | None = None,
        test_share: float = 0.1,
        limit: int | None = None,
        reward: Any = None,
    ) -> None:
        if not 0 <= test_share < 1:
            raise ValueError(f"test_share must be from 0 to below 1, got {test_share}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.name = f"jsonl:{Path(path).name}"
        problems = read_problems(Path(path), prompt, columns, limit)
        if test_path is None:
            test = [problem for problem in problems if _fraction(problem) < test_share]
        else:
            test = read_problems(Path(test_path), prompt, columns, limit)
        in_test = {_key(problem) for problem in test}
        self._splits = {"train": [problem for problem in problems if _key(problem) not in in_test], "test": test}
        self.columns = frozenset.intersection(*(frozenset(problem.row) for problem in [*problems, *test]))
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


def read_problems(path: Path, prompt: str, columns: Mapping[str, str] | None, limit: int | None) -> list[Problem]:
    """The problems of a file, in order."""
    if not path.is_file():
        raise ValueError(f"path must be a JSON-lines file, got {str(path)!r}, which is not there")
    problems: list[Problem] = []
    for number, line in _rows(path):
        if columns is None:
            columns = {name: name for name in line if name != prompt}
        missing = [name for name in (prompt, *columns.values()) if name not in line]
        if missing:
            raise ValueError(f"{path}:{number}: a line must have the column {missing[0]!r}, it has {sorted(line)}")
        try:
            shown = as_problem(line[prompt]).prompt
        except ValueError as error:
            raise ValueError(f"{path}:{number}: column {prompt!r}: {error}") from error
        problems.append(Problem(shown, {ours: line[theirs] for ours, theirs in columns.items()}))
        if len(problems) == limit:
            break
    if not problems:
        raise ValueError(f"path must hold at least one problem, {path} has none")
    return problems


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects; blank lines are skipped."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig"))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: a line must be one JSON object: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: a line must be one JSON object, got {type(row).__name__}")
            yield number, row


def _key(problem: Problem) -> str:
    return json.dumps(problem.prompt, sort_keys=True)


def _fraction(problem: Problem) -> float:
    """A number from 0 to 1 that depends on the prompt alone."""
    return zlib.crc32(_key(problem).encode()) / 2**32
