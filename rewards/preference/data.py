"""Preferences and the JSONL files they live in.

A line is a pair, `{"prompt": ..., "chosen": "...", "rejected": "..."}`, or a ranking,
`{"prompt": ..., "responses": ["...", "...", "..."], "ranking": [2, 0, 1]}`: the numbers of the responses from 0, best
first, those that share a place in a list of their own (`[2, [0, 1]]`). The prompt is text or a list of chat messages.
`"margin"` is optional: how much better the chosen one is; in a ranking, how much better each place is than the next, a
number for all or a list of them. Other fields are ignored, and so are blank lines.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from rewards.types import Message

Prompt = str | tuple[Message, ...]
Record = TypeVar("Record")
MAX_TIED = 10
"""Most responses on one place where Plackett-Luce averages over their orders: the work doubles with each."""


@dataclass(frozen=True, slots=True)
class Preference:
    """One judgement: to this prompt, these responses, best first."""

    prompt: Prompt
    responses: tuple[str, ...]
    places: tuple[int, ...]
    """Of each response, from 0 on and never falling; equal places are ties."""
    levels: tuple[float, ...]
    """How far the score should lie above that of the last place: margins, added up."""
    source: str = field(default="", compare=False)
    """File and line, for messages."""

    @property
    def num_places(self) -> int:
        return self.places[-1] + 1


def pair(prompt: Prompt, chosen: str, rejected: str, margin: float = 0.0) -> Preference:
    """The judgement that `chosen` is better than `rejected`, their scores at least `margin` apart."""
    return Preference(prompt, (chosen, rejected), (0, 1), (margin, 0.0))


def read_preferences(path: str | Path, *, ties: str = "refuse", loss: str = "pairs") -> list[Preference]:
    """All judgements of a file, in its order, as `ties` and `loss` (`config.TrainConfig`) admit them.

    Raises `ValueError` with file and line for the first line that is wrong. `ties="drop"` leaves out what ties
    everything.
    """
    parse = partial(parse_admitted, ties=ties, loss=loss)
    found = [replace(preference, source=place) for place, preference in read_jsonl(path, parse)]
    kept = [preference for preference in found if ties != "drop" or preference.num_places > 1]
    if not kept:
        raise ValueError(f"{path}: must hold at least one preference, got 0{' that is not a tie' if found else ''}")
    return kept


def read_jsonl(path: str | Path, parse: Callable[[Mapping[str, Any]], Record]) -> Iterator[tuple[str, Record]]:
    """The place of every line and `parse` of its object; what it finds wrong is a `ValueError` with file and line."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: must be an existing JSONL file, found none")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                record = parse(_object(line))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place}: {error}") from error
            yield place, record


def parse_admitted(row: Mapping[str, Any], *, ties: str, loss: str) -> Preference:
    """A judgement from a line's object. Raises `ValueError` also for one that the settings do not admit."""
    preference = parse_preference(row)
    if ties == "refuse" and preference.num_places < len(preference.places):
        raise ValueError(
            f"ranking must have no ties unless ties=drop or ties=half, got {_short(row['ranking'])}: "
            "drop leaves the tied pairs out, half counts them half for either"
        )
    if loss == "plackett_luce" and any(preference.levels):
        raise ValueError(f"margin needs loss=pairs, plackett_luce has none; got {_short(row['margin'])}")
    largest = max(map(preference.places.count, set(preference.places)))
    if loss == "plackett_luce" and ties == "half" and largest > MAX_TIED:
        raise ValueError(
            f"ranking must tie at most {MAX_TIED} responses for loss=plackett_luce with ties=half, got {largest}"
        )
    return preference


def parse_preference(row: Mapping[str, Any]) -> Preference:
    """A pair or a ranking from a line's object.

    >>> parse_preference({"prompt": "2+2?", "chosen": "4", "rejected": "5"}).responses
    ('4', '5')
    >>> ranked = parse_preference({"prompt": "2+2?", "responses": ["22", "4", "5"], "ranking": [1, [0, 2]]})
    >>> ranked.responses, ranked.places
    (('4', '22', '5'), (0, 1, 1))
    """
    if "responses" not in row and "ranking" not in row:
        return _parse_pair(row)
    if both := sorted({"chosen", "rejected"} & set(row)):
        raise ValueError(f"a line must be a pair or a ranking, it has responses or ranking beside {', '.join(both)}")
    return _parse_ranking(row)


def _parse_pair(row: Mapping[str, Any]) -> Preference:
    prompt = parse_prompt(row)
    chosen, rejected = (text_field(row, name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise ValueError(f"chosen must differ from rejected, both are {_short(chosen)}")
    return pair(prompt, chosen, rejected, _number(row.get("margin", 0.0)))


def _parse_ranking(row: Mapping[str, Any]) -> Preference:
    prompt = parse_prompt(row)
    responses = _responses(row)
    places = _places(row, len(responses))
    order = [number for place in places for number in place]
    levels = _levels(row.get("margin", 0.0), len(places))
    of_response = [rank for rank, place in enumerate(places) for _ in place]
    return Preference(
        prompt,
        tuple(responses[number] for number in order),
        tuple(of_response),
        tuple(levels[rank] for rank in of_response),
    )


def _responses(row: Mapping[str, Any]) -> list[str]:
    texts = row.get("responses")
    if "responses" not in row:
        raise ValueError(f"responses is missing, the line has {sorted(row)}")
    if not isinstance(texts, list) or len(texts) < 2:
        raise ValueError(f"responses must be a list of at least 2 texts, got {_short(texts)}")
    seen: dict[str, int] = {}
    for number, text in enumerate(texts):
        text_field({"response": text}, "response", where=f"responses[{number}]: ")
        if text in seen:
            raise ValueError(f"responses must differ, {seen[text]} and {number} are both {_short(text)}")
        seen[text] = number
    return texts


def _places(row: Mapping[str, Any], num_responses: int) -> list[list[int]]:
    """The numbers of the responses on each place, best first."""
    if "ranking" not in row:
        raise ValueError(f"ranking is missing, the line has {sorted(row)}")
    ranking = row["ranking"]
    places = [entry if isinstance(entry, list) else [entry] for entry in ranking] if isinstance(ranking, list) else []
    named = [number for place in places for number in place]
    integers = all(isinstance(number, int) and not isinstance(number, bool) for number in named)
    if not integers or sorted(named) != list(range(num_responses)) or not all(places):
        raise ValueError(
            f"ranking must name each of 0 to {num_responses - 1} once, best first, ties in a list of their own, "
            f"got {_short(ranking)}"
        )
    return places


def _levels(margin: Any, num_places: int) -> list[float]:
    """For each place the sum of the margins from it down to the last."""
    steps = margin if isinstance(margin, list) else [_number(margin)] * (num_places - 1)
    if len(steps) != num_places - 1:
        rule = f"a number or one for each of the {num_places - 1} steps between places"
        raise ValueError(f"margin must be {rule}, got {_short(margin)}")
    return [*accumulate(map(_number, reversed(steps)), initial=0.0)][::-1]


def _number(margin: Any) -> float:
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
        raise ValueError(f"margin must be a finite number, got {_short(margin)}")
    return float(margin)


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
    preferences: Sequence[Preference], *, eval_share: float, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """`(train, eval)`, the same for the same data and seed, both in the order of the data.

    Whole prompts are drawn, about `eval_share` of them and at least one, so no prompt is in both; judgements that all
    share one prompt are drawn one by one. `eval_share=0` leaves the eval part empty.
    """
    keys: list[str | int] = [prompt_key(preference.prompt) for preference in preferences]
    if len(set(keys)) == 1:
        keys = list(range(len(preferences)))
    distinct = list(dict.fromkeys(keys))
    if eval_share > 0 and len(distinct) < 2:
        raise ValueError(f"eval_share must be 0 where the data hold a single judgement, got {eval_share}")
    count = min(max(1, round(eval_share * len(distinct))), len(distinct) - 1) if eval_share > 0 else 0
    drawn = set(random.Random(seed).sample(distinct, count))
    parts: tuple[list[Preference], list[Preference]] = ([], [])
    for key, preference in zip(keys, preferences, strict=True):
        parts[key in drawn].append(preference)
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
