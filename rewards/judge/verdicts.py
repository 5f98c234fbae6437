"""The number that a judge's answer ends in: behind a marker, in a JSON object, or where a pattern says.

The last one counts: before it a judge may quote whatever it was shown.
"""

from __future__ import annotations

import json
import re

MAX_OBJECTS = 64
PATTERN_SECONDS = 0.5
_NUMBER = re.compile(r"[\s*_`=:\[(\"']*([-+]?\d{1,9}(?:\.\d{1,9})?)(?![\d\w]|[.,]\d|\s*%)(?:\s*/\s*(\d{1,9})(?!\w))?")


def after_marker(text: str, marker: str, *, out_of: float) -> float:
    """The number after the last marker, in any case; `8/10` only where it is out of 10. Raises `ValueError`."""
    places = list(re.finditer(re.escape(marker), text, re.IGNORECASE))
    if not places:
        raise ValueError(f"there is no {marker!r}")
    found = _NUMBER.match(text, places[-1].end())
    if found is None:
        raise ValueError(f"no number follows {marker!r}")
    if found[2] and float(found[2]) != out_of:
        raise ValueError(f"the score must be out of {out_of:g}, got {found[0].strip()!r}")
    return float(found[1])


def of_object(text: str, key: str) -> float:
    """The number under `key` in the last JSON object that has it, inner objects first. Raises `ValueError`."""
    decoder, end = json.JSONDecoder(), len(text)
    for _ in range(MAX_OBJECTS):
        end = text.rfind("{", 0, end)
        if end < 0:
            break
        try:
            found, _ = decoder.raw_decode(text, end)
        except (ValueError, RecursionError):
            continue
        if key in found:
            return _as_number(found[key], key)
    raise ValueError(f"there is no JSON object with {key!r}")


def _as_number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise ValueError(f"{key!r} must be a number, got {value!r:.40}")
    return float(value)


def of_pattern(text: str, pattern: str) -> float:
    """The number in the group `score`, else the first group, of the last match. Raises `ValueError`."""
    import regex  # only who chooses a pattern needs the package

    try:
        matches = list(regex.finditer(pattern, text, timeout=PATTERN_SECONDS, concurrent=True))
    except TimeoutError:
        raise ValueError(f"the pattern took longer than {PATTERN_SECONDS} s") from None
    if not matches:
        raise ValueError(f"nothing matches {pattern!r}")
    group = matches[-1]["score"] if "score" in matches[-1].re.groupindex else matches[-1][1]
    if group is None or not re.fullmatch(r"\s*[-+]?\d{1,9}(\.\d{1,9})?\s*", group):
        raise ValueError(f"the pattern's group must be a number, got {group!r:.40}")
    return float(group)


def check_pattern(reads: str, pattern: str | None) -> None:
    """Raise `ValueError` for a pattern without a group, and for one that is missing or not asked for."""
    if (reads == "pattern") != (pattern is not None):
        raise ValueError(f"pattern must be given for reads='pattern', and only then, got {pattern!r}")
    if pattern is None:
        return
    import regex

    try:
        groups = regex.compile(pattern).groups
    except regex.error as error:
        raise ValueError(f"pattern must be a regular expression, got {pattern!r}: {error}") from error
    if not groups:
        raise ValueError(f"pattern must have a group that holds the score, got {pattern!r}")
