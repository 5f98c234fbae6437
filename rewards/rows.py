"""Rows of a JSONL file as samples: a completion, its prompt, and the columns of the task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewards.preference.data import parse_prompt, read_jsonl
from rewards.types import Sample


def read_rows(path: str | Path, *, max_rows: int | None = None) -> list[Sample]:
    """The samples of a file, at least one. Raises `ValueError` with file and line for the first line that is wrong."""
    rows: list[Sample] = []
    for sample in read_jsonl(path, parse_row):
        rows.append(sample)
        if len(rows) == max_rows:
            break
    if not rows:
        raise ValueError(f"{path}: must hold at least one row, got 0")
    return rows


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
