"""`key=value` words of a command line as settings, for tools that need no configuration files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Values are read as YAML; a key with dots makes nested settings, and a name that gets settings becomes their
    `_target_`.

    >>> parse_settings(["low=1", "names=[x, y]", "task=jsonl", "task.path=a.jsonl"])
    {'low': 1, 'names': ['x', 'y'], 'task': {'_target_': 'jsonl', 'path': 'a.jsonl'}}
    """
    settings: dict[str, Any] = {}
    for word in words:
        key, found, value = word.partition("=")
        if not found or not key:
            raise ValueError(f"a setting must be key=value, got {word!r}")
        place = settings
        *outer, last = key.split(".")
        for name in outer:
            if isinstance(place.get(name), str):
                place[name] = {"_target_": place[name]}
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key} cannot be set: {name} already has the value {place!r}")
        if isinstance(place.get(last), dict):
            raise ValueError(f"{key} must be chosen before its settings, got {word!r} behind {key}.{min(place[last])}")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(
                f"the value of {key} must be YAML (a text with {{ or : in quotes), got {value!r}"
            ) from error
    return settings
