"""Rows of a JSONL file as samples: a completion, its prompt, and the columns of the task."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewards.preference.data import parse_prompt
from rewards.types import Sample


def read_rows(path: str | Path, *, max_rows: int | None = None) -> list[Sample]:
    """The samples of a file, at least one. Raises `ValueError` with file and line for the first line that is wrong."""
    rows = list(itertools.islice(_samples(path), max_rows))
    if not rows:
        raise ValueError(f"{path}: must hold at least one row, got 0")
    return rows


def _samples(path: str | Path) -> Iterator[Sample]:
    if not Path(path).is_file():
        raise ValueError(f"{path}: must be an existing JSONL file, found none")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
                if not isinstance(row, dict):
                    raise ValueError(f"must be a JSON object, got {row!r:.80}")
                yield parse_row(row)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def parse_row(row: Mapping[str, Any]) -> Sample:
    """`completion` (text, may be empty), `prompt` (text or messages, may be missing), `finish_reason`, `group_id` and
    `completion_ids` make the sample, everything else its columns.

    >>> parse_row({"prompt": "2+2?", "completion": "4", "answer": 4}).row
    {'answer': 4}
    """
    if not isinstance(row.get("completion"), str):
        raise ValueError(f"completion must be text, got {row.get('completion')!r:.80}")
    prompt = parse_prompt(row) if row.get("prompt") else ""
    text = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
    known = ("completion", "prompt", "messages", "finish_reason", "group_id", "completion_ids")
    ids = row.get("completion_ids")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(token, int) for token in ids)):
        raise ValueError(f"completion_ids must be a list of integers, got {ids!r:.80}")
    return Sample(
        text,
        row["completion"],
        () if isinstance(prompt, str) else prompt,
        str(row.get("finish_reason", "eos")),
        {name: value for name, value in row.items() if name not in known},
        int(row.get("group_id", -1)),
        ids,
    )
