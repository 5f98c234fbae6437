"""Values as lines of JSON that can hold nothing but plain data: what is read has exact builtin types, no behaviour.

Large integers travel in hexadecimal, which Python reads and writes at any length; in decimal it stops at 4300 digits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 40
MAX_BYTES = 1 << 20
_SHORT = 1 << 63
_SEQUENCES: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def to_line(value: Any, *, limit: int = MAX_BYTES) -> bytes:
    """One line; raises `TypeError` or `ValueError` for what is no plain data, nested over 40 deep, or over 1 MiB."""
    line = json.dumps(_tagged(value, 0)).encode() + b"\n"
    if len(line) > limit:
        raise ValueError(f"a value may take {limit} bytes, got {len(line)}")
    return line


def from_line(line: bytes) -> Any:
    """The value of one line; raises `ValueError` for what `to_line` does not write."""
    try:
        return _untagged(json.loads(line))
    except (TypeError, KeyError, RecursionError, AttributeError) as error:
        raise ValueError(f"not plain data: {error}") from error


def _tagged(value: Any, depth: int) -> Any:
    kind = type(value)
    if depth > MAX_DEPTH:
        raise ValueError(f"a value may be nested {MAX_DEPTH} deep")
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -_SHORT < value < _SHORT else {"int": hex(value)}
    if kind.__name__ in _SEQUENCES and kind is _SEQUENCES[kind.__name__]:
        return {kind.__name__: [_tagged(item, depth + 1) for item in value]}
    if kind is dict:
        return {"dict": [[_tagged(key, depth + 1), _tagged(item, depth + 1)] for key, item in value.items()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"a {kind.__name__} is no plain data")


def _untagged(tagged: Any) -> Any:
    if not isinstance(tagged, dict):
        if isinstance(tagged, list):
            raise ValueError("a bare list")
        return tagged
    ((kind, content),) = tagged.items()
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_untagged(item) for item in content)
    if kind == "dict":
        return {_untagged(key): _untagged(item) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*map(float, content))
    if kind == "int":
        return int(content, 16)
    raise ValueError(f"unknown kind {kind!r}")
