"""A user's own problems from a file or a dataset, its columns mapped to names that rewards ask for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenv.tasks.text import own_reward
from textenv.types import Problem, as_problem

Rows = Iterable[tuple[str, dict[str, Any]]]
"""Each with its place in the source, for messages."""


class DataTask:
    """One problem a row. `prompt` names the column with the prompt, text or chat messages.

    `columns` maps the names of ours to the names in the data (`{"answer": "solution"}`); None keeps every column of the
    first row. The test split is that of the source, where it has one, else the `test_share` of the prompts that a hash
    picks, whatever their order; a train problem whose prompt is also in the test split is left out. Raises `ValueError`
    that names the place of a row which lacks a column.
    """

    def __init__(
        self,
        name: str,
        rows: Rows,
        test_rows: Rows | None = None,
        *,
        prompt: str = "question",
        columns: Mapping[str, str] | None = None,
        test_share: float = 0.1,
        limit: int | None = None,
        reward: Any = None,
    ) -> None:
        if not 0 <= test_share < 1:
            raise ValueError(f"test_share must be from 0 to below 1, got {test_share}")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ValueError(f"limit must be an integer of at least 1, got {limit!r}")
        if columns is not None and not isinstance(columns, Mapping):
            raise ValueError(
                f"columns must map our names to the data's, like {{'answer': 'solution'}}, got {columns!r}"
            )
        self.name = name
        problems = as_problems(rows, prompt, columns, limit)
        if not problems:
            raise ValueError(f"{name} must hold at least one problem, it has none")
        if test_rows is None:
            test = [problem for problem in problems if _fraction(problem) < test_share]
        else:
            test = as_problems(test_rows, prompt, columns, limit)
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


def jsonl_task(path: str | Path, *, test_path: str | Path | None = None, **settings: Any) -> DataTask:
    """A JSON-lines file, and `test_path` for another one to test on; the settings are those of `DataTask`, and `limit`
    bounds the lines that are read. Raises `ValueError` with file and line number for a line that does not parse."""
    path = Path(path)
    test = None if test_path is None else json_lines(Path(test_path))
    return DataTask(f"jsonl:{path.name}", json_lines(path), test, **settings)


def parquet_task(path: str | Path, *, test_path: str | Path | None = None, **settings: Any) -> DataTask:
    """The same from parquet files. Needs `pyarrow`."""
    path = Path(path)
    test = None if test_path is None else parquet_rows(Path(test_path))
    return DataTask(f"parquet:{path.name}", parquet_rows(path), test, **settings)


def dataset_task(
    path: str,
    *,
    config: str | None = None,
    train: str = "train",
    test: str | None = None,
    load: Mapping[str, Any] | None = None,
    **settings: Any,
) -> DataTask:
    """A Hugging Face dataset by hub name or folder, its split `train` and, where there is one, its split `test`.

    `load` is passed on to `datasets.load_dataset`, with `data_files` and the like. Needs `datasets`.
    """
    found = load_splits(path, config, dict(load or {}))
    for split in (train, *([] if test is None else [test])):
        if split not in found:
            raise ValueError(f"dataset {path!r} must have the split {split!r}, it has {sorted(found)}")
    held_out = None if test is None and train == "test" else found.get("test" if test is None else test)
    test_rows = None if held_out is None else numbered(f"{path}[test]", held_out)
    return DataTask(f"dataset:{path}", numbered(f"{path}[{train}]", found[train]), test_rows, **settings)


def load_splits(path: str, config: str | None, options: dict[str, Any]) -> Mapping[str, Iterable[dict[str, Any]]]:
    """The splits of a Hugging Face dataset, one that was saved to a folder included."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError("task dataset needs the package datasets: pip install datasets") from error
    folder = Path(path).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(path, config, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"dataset {path!r} cannot be loaded: {error}") from error
    return found if isinstance(found, Mapping) else {"train": found}


def as_problems(rows: Rows, prompt: str, columns: Mapping[str, str] | None, limit: int | None) -> list[Problem]:
    """Problems of rows, in order."""
    problems: list[Problem] = []
    for place, row in rows:
        if columns is None:
            columns = {name: name for name in row if name != prompt}
        missing = [name for name in (prompt, *columns.values()) if name not in row]
        if missing:
            raise ValueError(f"{place}: a row must have the column {missing[0]!r}, it has {sorted(row)}")
        try:
            shown = as_problem(row[prompt]).prompt
        except ValueError as error:
            raise ValueError(f"{place}: column {prompt!r}: {error}") from error
        problems.append(Problem(shown, {ours: row[theirs] for ours, theirs in columns.items()}))
        if len(problems) == limit:
            break
    return problems


def numbered(source: str, rows: Iterable[Mapping[str, Any]]) -> Rows:
    """Rows with their places, counted from 1."""
    return ((f"{source}:{number}", dict(row)) for number, row in enumerate(rows, start=1))


def parquet_rows(path: Path) -> Rows:
    """The rows of a parquet file."""
    check_file(path, "parquet")
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ValueError("task parquet needs the package pyarrow: pip install pyarrow") from error
    try:
        table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise ValueError(f"path must be a parquet file, {path} is none: {error}") from error
    return numbered(str(path), table.to_pylist())


def json_lines(path: Path) -> Rows:
    """The objects of a JSON-lines file; blank lines are skipped."""
    check_file(path, "JSON-lines")
    return _json_lines(path)


def check_file(path: Path, kind: str) -> None:
    """Raise `ValueError` unless the file is there."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise ValueError(f"path must be a {kind} file, got {str(path)!r}, which is {what}")


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
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
            yield f"{path}:{number}", row


def _key(problem: Problem) -> str:
    return json.dumps(problem.prompt, sort_keys=True)


def _fraction(problem: Problem) -> float:
    """A number from 0 to 1 that depends on the prompt alone."""
    return zlib.crc32(_key(problem).encode()) / 2**32
