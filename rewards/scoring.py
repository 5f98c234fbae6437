"""How rewards are executed: inline or in killable workers, with time limits, and what a grader's error means.

What the policy causes is a score of 0 with a reason, given by the reward itself. What the grader causes (an exception,
None, NaN, a wrong length, its own time-out) is never charged to the policy: `on_error` says what becomes of the sample.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from rewards.combine import Part, Span, as_parts, combined
from rewards.errors import Failure, RewardError
from rewards.execution import Executor
from rewards.timing import Ledger
from rewards.types import Sample, Score
from rewards.workers import default_workers

WINDOW_SAMPLES = 400
MIN_SAMPLES = 50
MIN_ALL_FAILED = 8
"""The invalid share is judged over the last 400 samples, once 50 were seen, or 8 of which none could be scored."""


class Verdict(NamedTuple):
    """What all parts together say about one sample."""

    value: float
    """The combined value, spans not included; 0 when invalid."""
    parts: Mapping[str, Score]
    """Each part's own score, unweighted; a part that failed under `on_error: invalid` is missing."""
    valid: bool = True
    """False: no statement about the policy; leave the sample out."""
    reason: str = ""
    """The failures, else the parts' own reasons."""
    spans: tuple[Span, ...] = ()
    """`(start, end, reward)` over characters, weighted and gated, paid in addition to `value`."""


class Batch(NamedTuple):
    """Samples that are scored together; a batched part sees them, and no others, in one call."""

    samples: Sequence[Sample]
    failures: Mapping[int, str]
    """Places of samples that nothing can be said of, since the task itself failed, and why."""

    @property
    def sound(self) -> Sequence[Sample]:
        """The samples that the parts are asked about."""
        if not self.failures:
            return self.samples
        return [sample for place, sample in enumerate(self.samples) if place not in self.failures]


class Scorer:
    """Scores samples with named parts. Workers start at the first call that needs one; `close()` ends them."""

    def __init__(
        self,
        parts: Any,
        *,
        on_error: str | float = "invalid",
        timeout_seconds: float = 10.0,
        max_invalid_share: float = 0.2,
        workers: int | None = None,
        worker_memory_mb: int | None = None,
        keep_environment: Sequence[str] = (),
        cache_size: int = 0,
    ) -> None:
        """Take what `as_parts` takes; raises `ValueError` for a setting out of range or a part no worker can hold.

        `workers`: processes, by default a quarter of the cores; `worker_memory_mb` bounds the address space of each;
        `keep_environment` names variables that they are shown although they look like secrets. `cache_size`: scores
        kept of parts that are called per sample, for rewards that say the same of the same; 0: none.
        """
        workers = default_workers() if workers is None else workers
        _check_settings(on_error, timeout_seconds, max_invalid_share)
        _check_execution(workers, worker_memory_mb, keep_environment, cache_size)
        self.parts: dict[str, Part] = as_parts(parts)
        self.on_error = on_error
        self.max_invalid_share = max_invalid_share
        self._executor = Executor(
            self.parts,
            timeout_seconds=timeout_seconds,
            workers=workers,
            memory_mb=worker_memory_mb,
            keep_environment=keep_environment,
            cache_size=cache_size,
        )
        self._recent: deque[bool] = deque(maxlen=WINDOW_SAMPLES)
        self._counters = {"samples": 0.0, "errors": 0.0, "timeouts": 0.0, "invalid": 0.0, "seconds": 0.0}
        self._told_seconds = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The parts' names, in order."""
        return tuple(self.parts)

    def counters(self) -> dict[str, float]:
        """Since construction: samples, errors and timeouts of graders (a timeout is an error too), invalid, seconds."""
        return dict(self._counters)

    def take_metrics(self) -> dict[str, float]:
        """Since the last time this was asked: `<part>/calls`, `errors`, `timeouts`, `cached`, `seconds_p50`, `_p95`,
        `_p100` of a call, `queue_seconds_p95` until its turn; a batched part's call is a batch. Parts not called say
        nothing. And `seconds`: what scoring took by the clock, all parts together."""
        ledgers = self._executor.ledgers
        told = {
            f"{name}/{metric}": number
            for name, ledger in ledgers.items()
            if ledger.calls or ledger.errors or ledger.cached
            for metric, number in ledger.metrics().items()
        }
        ledgers.update({name: Ledger() for name in ledgers})
        seconds, self._told_seconds = self._counters["seconds"] - self._told_seconds, self._counters["seconds"]
        return told | {"seconds": seconds} if told else told

    def require(self, columns: Iterable[str]) -> None:
        """Raise `ValueError` where a part asks by name for what neither a sample nor these columns provide."""
        self._executor.require(columns)

    def score(self, samples: Sequence[Sample], *, failures: Mapping[int, str] | None = None) -> list[Verdict]:
        """One verdict per sample, in order. `failures`: places of samples that nothing can be said of, since the task
        itself failed, and why; no part is asked about them, and they count as a grader's error does.

        Raises `RewardError` as `on_error` and `max_invalid_share` say.
        """
        (outcome,) = self.score_batches([Batch(samples, failures or {})])
        if isinstance(outcome, RewardError):
            raise outcome
        return outcome

    def score_batches(
        self, batches: Sequence[Batch], *, cancelled: threading.Event | None = None
    ) -> list[list[Verdict] | RewardError]:
        """What `score` gives or raises for each batch, as if called for one after the other; but calls of a part that
        can run at the same time do so, whatever batch they are of.

        Raises `Cancelled` soon after `cancelled` was set by another thread, and `RewardError` when no worker starts.
        """
        started = time.perf_counter()
        sound = [batch.sound for batch in batches]
        of_parts = [self._executor.outcomes(name, sound, cancelled) for name in self.parts]
        failed = {place for results in of_parts for place, result in enumerate(results) if isinstance(result, Failure)}
        outcomes = [dict(zip(self.parts, of_sample, strict=True)) for of_sample in zip(*of_parts, strict=True)]
        first, judged = 0, []
        for batch, samples in zip(batches, sound, strict=True):
            places = range(first, first + len(samples))
            judged.append(self._judged(batch, zip(samples, outcomes[first : places.stop], places, strict=True), failed))
            first = places.stop
        self._counters["seconds"] += time.perf_counter() - started
        return judged

    def close(self) -> None:
        """End the workers; a later call starts them again."""
        self._executor.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _judged(
        self, batch: Batch, outcomes: Iterable[tuple[Sample, Mapping[str, Any], int]], failed: Set[int]
    ) -> list[Verdict] | RewardError:
        """The verdicts on a batch, or the error that ends the run. `outcomes`: of each sound sample, with its place in
        `failed`, which holds those of which some part said nothing."""
        try:
            verdicts = [
                self._failed(sample, scores) if place in failed else self._sum(scores, _own_reasons(scores))
                for sample, scores, place in outcomes
            ]
            for place in sorted(batch.failures):
                verdicts.insert(place, self._failed_task(batch.failures[place]))
            self._counters["samples"] += len(verdicts)
            self._refuse_too_many_invalid(verdicts)
        except RewardError as error:
            return error
        return verdicts

    def _failed(self, sample: Sample, outcomes: Mapping[str, Score | Failure]) -> Verdict:
        """The verdict where some parts failed."""
        failures = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Failure)}
        self._counters["errors"] += len(failures)
        self._counters["timeouts"] += sum(failure.timed_out for failure in failures.values())
        told = {name: _told(name, failure, sample) for name, failure in failures.items()}
        scores = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Score)}
        if self.on_error == "raise":
            raise RewardError(next(iter(told.values())))
        reason = "\n".join(told.values())
        if self.on_error == "invalid":
            return Verdict(0.0, scores, valid=False, reason=reason)
        for name in failures:
            scores[name] = Score(float(self.on_error), info={"reason": told[name]})
        return self._sum({name: scores[name] for name in self.parts}, reason)

    def _failed_task(self, reason: str) -> Verdict:
        """The verdict on a sample that no part is asked about."""
        self._counters["errors"] += 1
        if self.on_error == "raise":
            raise RewardError(reason)
        if self.on_error == "invalid":
            return Verdict(0.0, {}, valid=False, reason=reason)
        return Verdict(float(self.on_error), {}, reason=reason)

    def _sum(self, scores: Mapping[str, Score], reason: str) -> Verdict:
        value, spans = combined(self.parts, scores)
        if not math.isfinite(value):
            raise RewardError(f"the combined reward must be finite, got {value} from {scores}")
        return Verdict(value, scores, reason=reason, spans=spans)

    def _refuse_too_many_invalid(self, verdicts: Sequence[Verdict]) -> None:
        invalid = [verdict for verdict in verdicts if not verdict.valid]
        self._recent.extend([not verdict.valid for verdict in verdicts])
        if not invalid:
            return
        self._counters["invalid"] += len(invalid)
        share = sum(self._recent) / len(self._recent)
        enough = len(self._recent) >= (MIN_ALL_FAILED if share == 1 else MIN_SAMPLES)
        if enough and share > self.max_invalid_share:
            raise RewardError(
                f"{share:.0%} of the last {len(self._recent)} samples could not be scored, "
                f"max_invalid_share is {self.max_invalid_share:.0%}; the last error: {invalid[-1].reason}"
            )


def _check_settings(on_error: object, timeout_seconds: float, max_invalid_share: float) -> None:
    is_number = isinstance(on_error, int | float) and not isinstance(on_error, bool) and math.isfinite(on_error)
    if on_error not in ("raise", "invalid") and not is_number:
        raise ValueError(f"on_error must be raise, invalid or a finite number, got {on_error!r}")
    if not (isinstance(timeout_seconds, int | float) and 0 < timeout_seconds < math.inf):
        raise ValueError(f"timeout_seconds must be above 0 and finite, got {timeout_seconds!r}")
    if not (isinstance(max_invalid_share, int | float) and 0 <= max_invalid_share <= 1):
        raise ValueError(f"max_invalid_share must be from 0 to 1, got {max_invalid_share!r}")


def _check_execution(workers: int, memory_mb: int | None, keep_environment: Sequence[str], cache_size: int) -> None:
    if not (isinstance(workers, int) and workers >= 1):
        raise ValueError(f"workers must be at least 1, got {workers!r}")
    if not (memory_mb is None or (isinstance(memory_mb, int) and memory_mb >= 64)):
        raise ValueError(f"worker_memory_mb must be at least 64, or None, got {memory_mb!r}")
    if isinstance(keep_environment, str) or not all(isinstance(name, str) for name in keep_environment):
        raise ValueError(f"keep_environment must be a list of names, got {keep_environment!r}")
    if not (isinstance(cache_size, int) and cache_size >= 0):
        raise ValueError(f"cache_size must be at least 0, got {cache_size!r}")


def _told(name: str, failure: Failure, sample: Sample) -> str:
    trace = f"\n{failure.trace}" if failure.trace else ""
    return f"reward.{name} failed: {failure.reason}, on completion {sample.completion[:80]!r}{trace}"


def _own_reasons(scores: Mapping[str, Score]) -> str:
    told = ""
    for name, score in scores.items():
        if score.info and (reason := score.info.get("reason")):
            told += f"{'; ' if told else ''}{name}: {reason}"
    return told
