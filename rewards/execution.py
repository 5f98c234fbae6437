"""How the parts of a reward are run: inline or in killable workers, timed, and not twice where a cache is asked for."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rewards.cache import ScoreCache
from rewards.calling import SAMPLE_FIELDS, Batched, PerSample, Wanted, arguments, is_batched, wanted
from rewards.combine import Part
from rewards.errors import Failure, failure_of
from rewards.inline import refuse_cancelled, run_inline
from rewards.timing import Ledger
from rewards.types import Sample, Score, timed_out
from rewards.workers import Pool, sendable

Outcome = Score | Failure


class Executor:
    """Calls the parts' functions. Workers start at the first call that needs one; `close()` ends them."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        *,
        timeout_seconds: float,
        workers: int,
        memory_mb: int | None,
        keep_environment: Collection[str],
        cache_size: int,
    ) -> None:
        """Raises `ValueError` for a part that no worker can hold, or whose arguments cannot be found by name."""
        self.parts = parts
        self.ledgers = {name: Ledger() for name in parts}
        self._timeout_seconds = timeout_seconds
        self._functions = {name: _function(part) for name, part in parts.items()}
        self._wanted = {name: _wanted(name, part) for name, part in parts.items()}
        self._in_process = {name for name, part in parts.items() if execution_of(part) == "process"}
        for name in self._in_process:
            sendable(name, self._functions[name])
        self._new_pool = functools.partial(
            Pool, workers=workers, memory_mb=memory_mb, keep_environment=tuple(keep_environment)
        )
        self._pool: Pool | None = None
        self._cache = ScoreCache(cache_size) if cache_size else None

    def require(self, columns: Iterable[str]) -> None:
        """Raise `ValueError` where a part asks by name for what neither a sample nor these columns provide."""
        offered = sorted(columns)
        for name, names in self._wanted.items():
            missing = sorted(names.required - SAMPLE_FIELDS - set(offered)) if names else []
            if missing:
                raise ValueError(
                    f"reward.{name} asks for column '{missing[0]}', which the task does not provide: "
                    f"it has {offered}, and every sample has {sorted(SAMPLE_FIELDS)}"
                )

    def outcomes(
        self, name: str, batches: Sequence[Sequence[Sample]], cancelled: threading.Event | None
    ) -> list[Outcome]:
        """What a part says of the samples of all batches, one behind the other."""
        names = self._wanted[name]
        if self._cache is None or names is None:
            found = self._ask(name, batches, cancelled)
        else:
            found = self._look_up(name, names, self._cache, batches, cancelled)
        self.ledgers[name].errors += sum(isinstance(outcome, Failure) for outcome in found)
        return found

    def close(self) -> None:
        """End the workers; a later call starts them again."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def _look_up(
        self,
        name: str,
        names: Wanted,
        cache: ScoreCache,
        batches: Sequence[Sequence[Sample]],
        cancelled: threading.Event | None,
    ) -> list[Outcome]:
        """As `_ask`, asking only about what is not known, and once where samples are alike."""
        known: list[Any] = []
        asked_at: dict[bytes, int] = {}
        unknown: list[list[Sample]] = []
        copies: list[tuple[int, bytes]] = []
        keys: list[bytes | None] = []
        for batch in batches:
            unknown.append([])
            for sample in batch:
                keywords = _arguments_or_failure(names, sample)
                key = None if isinstance(keywords, Failure) else cache.key(name, self.parts[name].fn, keywords)
                score = cache.get(key)
                if score is None and key in asked_at:
                    copies.append((len(known), key))
                elif score is None:
                    unknown[-1].append(sample)
                    if key is not None:
                        asked_at[key] = len(known)
                keys.append(key)
                known.append(score)
        self.ledgers[name].cached += len(known) - sum(map(len, unknown))
        answers = iter(self._ask(name, unknown, cancelled))
        copied = {place for place, _ in copies}
        for place, score in enumerate(known):
            if score is None and place not in copied:
                known[place] = next(answers)
                cache.put(keys[place], known[place])
        for place, key in copies:
            known[place] = known[asked_at[key]]
        return known

    def _ask(self, name: str, batches: Sequence[Sequence[Sample]], cancelled: threading.Event | None) -> list[Outcome]:
        if is_batched(self.parts[name].fn):
            calls = [list(samples) for samples in batches if samples]
            answers = self._execute(name, calls, cancelled)
            each = [
                [answer] * len(call) if isinstance(answer, Failure) else answer
                for call, answer in zip(calls, answers, strict=True)
            ]
            return list(itertools.chain.from_iterable(each))
        names = self._wanted[name]
        assert names is not None
        outcomes: list[Any] = [
            _arguments_or_failure(names, sample) for sample in itertools.chain.from_iterable(batches)
        ]
        if not any(isinstance(outcome, Failure) for outcome in outcomes):
            return self._execute(name, outcomes, cancelled)
        callable_indices = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Failure)]
        answers = self._execute(name, [outcomes[index] for index in callable_indices], cancelled)
        for index, answer in zip(callable_indices, answers, strict=True):
            outcomes[index] = answer
        return outcomes

    def _execute(self, name: str, calls: list[Any], cancelled: threading.Event | None) -> list[Any]:
        if not calls:
            return []
        refuse_cancelled(cancelled)
        part = self.parts[name]
        limit = self._timeout_seconds if part.timeout_seconds is None else part.timeout_seconds
        if name not in self._in_process:
            answered = run_inline(self._functions[name], calls, timeout_seconds=limit, cancelled=cancelled)
        else:
            if self._pool is None:
                functions = {other: self._functions[other] for other in sorted(self._in_process)}
                self._pool = self._new_pool(functions)
            answered = self._pool.run_timed(name, calls, timeout_seconds=limit, cancelled=cancelled)
        self.ledgers[name].enter(answered)
        return [_own_timeout(part, each.answer) for each in answered]


def _function(part: Part) -> PerSample | Batched:
    return Batched(part.fn) if is_batched(part.fn) else PerSample(part.fn)


def _wanted(name: str, part: Part) -> Wanted | None:
    """What a part asks for; None for a batched object that cannot be called per sample and so names nothing."""
    if not callable(part.fn):
        return None
    try:
        return wanted(part.fn)
    except ValueError as error:
        raise ValueError(f"reward.{name}: {error}") from error


def execution_of(part: Part) -> str:
    """Where a part runs: `inline` or `process`."""
    if part.execution != "auto":
        return part.execution
    bounded = getattr(part.fn, "execution", None) == "inline"
    return "inline" if bounded or is_batched(part.fn) else "process"


def _arguments_or_failure(names: Wanted, sample: Sample) -> dict[str, Any] | Failure:
    try:
        return arguments(names, sample)
    except KeyError as error:
        return failure_of(error)


def _own_timeout(part: Part, answer: Any) -> Any:
    """A rule whose cost only the completion decides says so: then its overrun, of its time or of its process's memory,
    is the policy's doing, a plain 0."""
    if not isinstance(answer, Failure) or not getattr(part.fn, "timeout_is_zero", False):
        return answer
    if answer.timed_out:
        return Score(0.0, info={"reason": "timed out", **timed_out()})
    return Score(0.0, info={"reason": "out of memory"}) if answer.out_of_memory else answer
