"""Where in a completion a JSON document stands, and reading it with bounds. Every pass is linear in the text.

Stricter than Python's own reader, as RFC 8259 asks: no NaN or Infinity, no key twice.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DIGITS = 300
"""Of one integer; a float holds no more, and validators count in floats."""
_BRACKETS_AND_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)


def find_json(completion: str, *, where: str = "any", tag: str = "json") -> str | None:
    """Where in a completion the document stands; None where there is no such place. Linear in the text."""
    text = completion.rpartition("</think>")[2]
    if where in ("any", "tag"):
        before, closing, _ = text.rpartition(f"</{tag}>")
        _, opening, inside = before.rpartition(f"<{tag}>")
        if closing and opening:
            return inside
    if where in ("any", "fence"):
        block = _last_fence(text)
        if block is not None:
            return block
    return text if where in ("any", "whole") and text.strip() else None


def _last_fence(text: str) -> str | None:
    """The inside of the last closed block whose fence says json or nothing."""
    block: list[str] | None = None
    language, last = "", None
    for line in text.split("\n"):
        mark = line.strip()
        if block is None and mark.startswith("```"):
            block, language = [], mark[3:].strip().lower()
        elif block is not None and mark == "```":
            last = "\n".join(block) if language in ("", "json") else last
            block = None
        elif block is not None:
            block.append(line)
    return last


def read_json(text: str, *, max_chars: int, max_depth: int) -> Any:
    """The document. Raises `ValueError` that says what is wrong with it."""
    text = text.strip(" \t\r\n")
    if len(text) > max_chars:
        raise ValueError(f"longer than {max_chars} characters")
    if _depth(text) > max_depth:
        raise ValueError(f"deeper than {max_depth} brackets")
    try:
        return json.loads(
            text, parse_int=_integer, parse_float=_float, parse_constant=_refused, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from error


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKETS_AND_STRINGS.finditer(text):
        if found.group() in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif found.group() in "]}":
            depth -= 1
    return deepest


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("a number too large for a float")
    return value


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} comes twice")
    return found
