"""Preference pairs and the JSONL files they live in.

A line is `{"prompt": ..., "chosen": "...", "rejected": "..."}`; the prompt is text or a list of chat messages,
`"margin"` (a number, how much better the chosen one is) is optional, other fields are ignored, and so are blank lines.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rewards.types import Message

Prompt = str | tuple[Message, ...]
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Preference:
    """One judgement: to this prompt, `chosen` is the better answer."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0
    """How far the two scores should at least lie apart."""


def read_preferences(path: str | Path) -> list[Preference]:
    """All pairs of a file, in its order. Raises `ValueError` with file and line for the first line that is wrong."""
    pairs = list(read_jsonl(path, parse_preference))
    if not pairs:
        raise ValueError(f"{path}: must hold at least one pair, got 0")
    return pairs


def read_jsonl(path: str | Path, parse: Callable[[Mapping[str, Any]], Record]) -> Iterator[Record]:
    """`parse` of every line's object; what it finds wrong is raised as `ValueError` with file and line number."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: must be an existing JSONL file, found none")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield parse(_object(line))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def parse_preference(row: Mapping[str, Any]) -> Preference:
    """A pair from a line's object.

    >>> parse_preference({"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    Preference(prompt='2+2?', chosen='4', rejected='5', margin=0.0)
    """
    prompt = parse_prompt(row)
    chosen, rejected = (text_field(row, name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise ValueError(f"chosen must differ from rejected, both are {_short(chosen)}")
    margin = row.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
        raise ValueError(f"margin must be a finite number, got {_short(margin)}")
    return Preference(prompt, chosen, rejected, float(margin))


def parse_prompt(row: Mapping[str, Any]) -> Prompt:
    """The field `prompt`: text, or chat messages of which the last is not the assistant's."""
    if not isinstance(row.get("prompt"), list):
        return text_field(row, "prompt", expected="text or a list of messages")
    messages = row["prompt"]
    if not messages:
        raise ValueError("prompt must hold at least one message, got []")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"prompt[{index}] must be an object with role and content, got {_short(message)}")
        for name in ("role", "content"):
            text_field(message, name, where=f"prompt[{index}].")
    if messages[-1]["role"] == "assistant":
        raise ValueError("prompt must not end with the assistant's message: that is what is judged")
    return tuple({"role": message["role"], "content": message["content"]} for message in messages)


def text_field(row: Mapping[str, Any], name: str, *, where: str = "", expected: str = "text") -> str:
    """The field `name`: text that is there, not empty, and valid Unicode."""
    if name not in row:
        raise ValueError(f"{where}{name} is missing, the line has {sorted(row)}")
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{where}{name} must be {expected}, got {_short(value)}")
    if not value:
        raise ValueError(f"{where}{name} must not be empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}{name} must be valid Unicode, got {_short(value)}") from error
    return value


def split_preferences(
    pairs: Sequence[Preference], *, eval_share: float, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """`(train, eval)`, the same for the same pairs and seed, both in the order of the data.

    Whole prompts are drawn, about `eval_share` of them and at least one, so no prompt is in both; pairs that all share
    one prompt are drawn one by one. `eval_share=0` leaves the eval part empty.
    """
    keys: list[str | int] = [prompt_key(pair.prompt) for pair in pairs]
    if len(set(keys)) == 1:
        keys = list(range(len(pairs)))
    distinct = list(dict.fromkeys(keys))
    if eval_share > 0 and len(distinct) < 2:
        raise ValueError(f"eval_share must be 0 where the data hold a single pair, got {eval_share}")
    count = min(max(1, round(eval_share * len(distinct))), len(distinct) - 1) if eval_share > 0 else 0
    drawn = set(random.Random(seed).sample(distinct, count))
    parts: tuple[list[Preference], list[Preference]] = ([], [])
    for key, pair in zip(keys, pairs, strict=True):
        parts[key in drawn].append(pair)
    return parts


def prompt_key(prompt: Any) -> str:
    """Equal for equal prompts."""
    return json.dumps(prompt, sort_keys=True)


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"must be JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, got {_short(row)}")
    return row


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
