"""How one reward is called: its arguments found by name, its result made a `Score`.

`PerSample` and `Batched` are what the executors see: one argument in, scores out, picklable when the reward is.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rewards.errors import Failure
from rewards.types import Sample, Score

SAMPLE_FIELDS = frozenset(field.name for field in fields(Sample))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The names a function asks for."""

    required: frozenset[str]
    optional: frozenset[str]
    takes_all: bool
    """It has `**kwargs` and receives every column of the row."""
    bound: frozenset[str]
    """Names that a `functools.partial` settled; a column of the same name does not override them."""
    all: frozenset[str] = field(init=False)
    """Required and optional ones."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "all", self.required | self.optional)


def wanted(fn: Callable[..., Any]) -> Wanted:
    """What `fn` asks for; raises `ValueError` where its parameters have no names to be found by."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a reward's parameters must be visible, got {fn!r} ({error})") from error
    for parameter in signature.parameters.values():
        positional_only = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if positional_only and parameter.default is inspect.Parameter.empty:
            raise ValueError(f"a reward must take its arguments by name, got {fn!r} with '{parameter.name}' before /")
    bound = frozenset(fn.keywords) if isinstance(fn, functools.partial) else frozenset()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [p for p in signature.parameters.values() if p.kind in named and p.name not in bound]
    required = frozenset(p.name for p in parameters if p.default is inspect.Parameter.empty)
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    return Wanted(required, frozenset(p.name for p in parameters) - required, takes_all, bound)


def arguments(names: Wanted, sample: Sample) -> dict[str, Any]:
    """The keyword arguments of one call. A field of the sample wins over a column of the same name."""
    found: dict[str, Any] = {}
    if names.takes_all:
        found.update((key, value) for key, value in sample.row.items() if key not in SAMPLE_FIELDS | names.bound)
    for name in names.all:
        if name in SAMPLE_FIELDS:
            found[name] = getattr(sample, name)
        elif name in sample.row:
            found[name] = sample.row[name]
        elif name in names.required:
            raise KeyError(f"the row has no column '{name}', it has {sorted(sample.row)}")
    return found


def is_batched(fn: object) -> bool:
    """Whether `fn` scores many samples in one call."""
    return callable(getattr(fn, "score_batch", None))


def is_async(fn: object) -> bool:
    """Whether calling `fn` gives a coroutine; sees through partials and callable objects."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def as_score(result: object) -> Score:
    """A reward's result as a `Score`; raises `TypeError` or `ValueError` for what is not one finite number."""
    if isinstance(result, Score):
        return result
    if isinstance(result, float | int):
        return Score(float(result))
    if getattr(result, "shape", None) == () and hasattr(result, "item"):
        result = result.item()
    if isinstance(result, numbers.Real):
        return Score(float(result))
    raise TypeError(f"a reward must return a number or a Score, got {type(result).__name__} {str(result)[:80]!r}")


@dataclass(frozen=True)
class PerSample:
    """A plain function, called with the keyword arguments of one sample."""

    fn: Callable[..., Any]

    @property
    def is_async(self) -> bool:
        return is_async(self.fn)

    def __call__(self, keywords: Mapping[str, Any]) -> Score:
        return as_score(self.fn(**keywords))

    async def call_async(self, keywords: Mapping[str, Any]) -> Score:
        return as_score(await self.fn(**keywords))


@dataclass(frozen=True)
class Batched:
    """An object with `score_batch`, called with all samples. One bad element fails alone, a wrong length fails all."""

    fn: Any

    @property
    def is_async(self) -> bool:
        return is_async(self.fn.score_batch)

    def __call__(self, samples: Sequence[Sample]) -> list[Score | Failure]:
        return _each_score(self.fn.score_batch(samples), len(samples))

    async def call_async(self, samples: Sequence[Sample]) -> list[Score | Failure]:
        return _each_score(await self.fn.score_batch(samples), len(samples))


def _each_score(results: Any, num_samples: int) -> list[Score | Failure]:
    results = list(results)
    if len(results) != num_samples:
        raise ValueError(f"score_batch must return one score per sample, got {len(results)} for {num_samples}")
    return [_score_or_failure(result) for result in results]


def _score_or_failure(result: object) -> Score | Failure:
    if isinstance(result, Failure):
        return result
    try:
        return as_score(result)
    except (TypeError, ValueError) as error:
        return Failure(f"{type(error).__name__}: {error}")
