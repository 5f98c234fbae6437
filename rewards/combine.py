"""Named, weighted, gated sums of rewards.

The total of one sample is (sum of weight x value over the parts that are no gates) x (product of the gates' values).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from rewards.calling import is_batched
from rewards.targets import resolve
from rewards.types import Score

EXECUTIONS = ("auto", "inline", "process")
Span = tuple[int, int, float]


@dataclass(frozen=True)
class Part:
    """One reward of a sum, and how it is executed."""

    fn: Callable[..., Any] | Any
    """A function that takes what it needs by name, or an object with `score_batch`."""
    weight: float = 1.0
    """Factor in the sum; a gate has none."""
    gate: bool = False
    """Multiplies the sum instead of adding to it."""
    execution: str = "auto"
    """`inline` in the trainer, `process` in a killable worker, `auto`: inline only what is bounded or batched."""
    timeout_seconds: float | None = None
    """Limit of one call; None takes the scorer's."""

    def __post_init__(self) -> None:
        _check_fn(self.fn)
        _check_number("weight", self.weight)
        if not isinstance(self.gate, bool):
            raise ValueError(f"gate must be true or false, got {self.gate!r}")
        if self.gate and self.weight != 1.0:
            raise ValueError(f"weight must not be set for a gate, got {self.weight}")
        if self.execution not in EXECUTIONS:
            raise ValueError(f"execution must be one of {', '.join(EXECUTIONS)}, got {self.execution!r}")
        if self.timeout_seconds is not None:
            _check_number("timeout_seconds", self.timeout_seconds)
            if self.timeout_seconds <= 0:
                raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds}")


def _check_fn(fn: object) -> None:
    if isinstance(fn, type):
        raise ValueError(f"fn must be a function or an object, got the class {fn.__name__}: construct it first")
    if not (callable(fn) or is_batched(fn)):
        raise ValueError(f"fn must be callable or have score_batch, got {fn!r}")


def _check_number(setting: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{setting} must be a finite number, got {value!r}")


def as_parts(reward: Any) -> dict[str, Part]:
    """Whatever describes a reward, as named parts.

    Takes a function, an object with `score_batch`, a `Part`, an import path, `{"_target_": path, **keywords}`, or a
    mapping of names to any of these or to `{"fn": ..., "weight": ..., "gate": ..., "execution": ...,
    "timeout_seconds": ...}`. Raises `ValueError` that names the part, the rule and the value.
    """
    if isinstance(reward, Mapping) and "_target_" not in reward:
        parts = {_checked_name(name): _named_part(name, value) for name, value in reward.items()}
    else:
        part = _as_part(reward)
        parts = {_own_name(part.fn): part}
    if not any(not part.gate for part in parts.values()):
        raise ValueError(f"reward must have at least one part that is not a gate, got {list(parts)}")
    return parts


def _named_part(name: str, value: Any) -> Part:
    try:
        return _as_part(value)
    except ValueError as error:
        raise ValueError(f"reward.{name}: {error}") from error


def _as_part(value: Any) -> Part:
    if isinstance(value, Part):
        return value
    if isinstance(value, Mapping) and "_target_" not in value:
        return _part_from_settings(value)
    return Part(_as_fn(value))


def _part_from_settings(settings: Mapping[str, Any]) -> Part:
    known = [field.name for field in fields(Part)]
    unknown = [key for key in settings if key not in known]
    if unknown or "fn" not in settings:
        raise ValueError(f"a part must have fn and may have {', '.join(known[1:])}, got {list(settings)}")
    return Part(**{**settings, "fn": _as_fn(settings["fn"])})


def _as_fn(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, Mapping) and "_target_" in value):
        return resolve(value)
    if isinstance(value, functools.partial) and isinstance(value.func, type):
        return _constructed(value)
    return value


def _constructed(delayed: functools.partial) -> Any:
    """A class that Hydra was told to wait with, as `conf/reward/function.yaml` does for functions."""
    try:
        return delayed()
    except TypeError as error:
        name = delayed.func.__name__
        raise ValueError(f"fn {name} cannot be built from {sorted(delayed.keywords)}: {error}") from error


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(f"a reward part's name must be a word without '/', got {name!r}")
    return name


def _own_name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", type(fn).__name__)
    return "reward" if name == "<lambda>" else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def combined(parts: Mapping[str, Part], scores: Mapping[str, Score]) -> tuple[float, tuple[Span, ...]]:
    """The total and the spans of one sample; spans scale as the value they stand beside, a gate's own are dropped."""
    total, gate = 0.0, 1.0
    spans: list[Span] = []
    for name, part in parts.items():
        score = scores[name]
        if part.gate:
            gate *= score.value
        else:
            total += part.weight * score.value
            if score.spans:
                spans.extend((start, end, part.weight * reward) for start, end, reward in score.spans)
    return float(gate * total), tuple((start, end, gate * reward) for start, end, reward in spans) if spans else ()


def contributions(parts: Mapping[str, Part], scores: Mapping[str, Score]) -> dict[str, float]:
    """What each part that is no gate brings into one sample's total, before its weight: value and spans, times the
    gates' values. A part without a score brings 0, a gate without one lets pass.

    >>> parts = {"right": Part(len, weight=2.0), "format": Part(len, gate=True)}
    >>> contributions(parts, {"right": Score(0.5), "format": Score(1.0)})
    {'right': 0.5}
    """
    gate = math.prod(scores[name].value for name, part in parts.items() if part.gate and name in scores)
    return {
        name: gate * float(scores[name]) if name in scores else 0.0 for name, part in parts.items() if not part.gate
    }
