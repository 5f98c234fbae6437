"""One part of a reward, tried on samples in a process that is killed when it hangs.

What a trainer would run inline is run in a process here, too: a reward under trial may do anything.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rewards import worker_process
from rewards.calling import is_batched
from rewards.combine import Part
from rewards.errors import Failure, failure_of
from rewards.scoring import Scorer, Verdict
from rewards.types import Sample, Score, timed_out
from rewards.workers import Pool, sendable

START_SECONDS = 120.0
"""For the first call of a batched part, which may have a model to load."""
MAX_HANGS = 3
"""A part that hung this often is not tried any more."""
FIRST = Sample("What is 2 + 2?", "4")


class Tried(NamedTuple):
    """What a part said of some samples in one call, and how long it took."""

    verdicts: list[Verdict]
    """One a sample; none where the call as a whole failed."""
    seconds: float
    failure: Failure | None = None


class Trial:
    """Runs one part as a `Scorer` does. `close()` ends its process."""

    def __init__(self, name: str, part: Part, *, timeout_seconds: float) -> None:
        """`timeout_seconds` of a call, where the part has no limit of its own."""
        self.name = name
        self.timeout_seconds = part.timeout_seconds or timeout_seconds
        later = 2 * self.timeout_seconds + 60  # a coroutine must not be cancelled before it is killed, and counted
        alone = replace(part, gate=False, weight=1.0, execution="inline", timeout_seconds=later)
        self._attempt = Attempt(name, alone)
        self._pool: Pool | None = None
        self._zero_for_time = getattr(part.fn, "timeout_is_zero", False)
        self._first_seconds = START_SECONDS if is_batched(part.fn) else self.timeout_seconds
        self._loaded = False
        self._hangs = 0
        try:
            sendable(name, part.fn)
            # What a trainer runs inline, a judge say, sees all of its environment.
            self._pool = Pool({name: self._attempt}, keep_environment=tuple(os.environ))
            self.killable = True
        except ValueError:
            self.killable = False  # a lambda, a function of a test: all that can be done is not to wait for it

    def ask(self, samples: Sequence[Sample]) -> Tried:
        """What the part says, in one call. A call that overruns is killed, where that is possible, and named."""
        if self._hangs >= MAX_HANGS:
            return Tried([], 0.0, Failure(f"not tried: it hung {self._hangs} times"))
        if not self._loaded:  # so that no time of a sample is that of an import, a model or a process of its own
            self._loaded = True
            self._run([replace(FIRST, row=samples[0].row, messages=samples[0].messages)], self._first_seconds)
        answer = self._run(list(samples), self.timeout_seconds)
        if not isinstance(answer, Failure):
            return Tried(*answer)
        if answer.timed_out and self._zero_for_time:  # as a `Scorer` has it
            zero = Score(0.0, info={"reason": "timed out", **timed_out()})
            return Tried([Verdict(0.0, {self.name: zero}, reason="timed out")] * len(samples), self.timeout_seconds)
        return Tried([], self.timeout_seconds if answer.timed_out else 0.0, answer)

    def _run(self, samples: list[Sample], limit: float) -> Any:
        if self._pool is not None:
            answer = self._pool.run(self.name, [samples], timeout_seconds=limit)[0]
        else:
            answer = _in_a_thread(self._attempt, samples, limit)
        if isinstance(answer, Failure):
            self._loaded = False  # a new process has to load again what the killed one had
            self._hangs += answer.timed_out and not self._zero_for_time
        return answer

    def close(self) -> None:
        """End the process, if there is one."""
        if self._pool is not None:
            self._pool.close()


class Attempt:
    """The call itself, as it arrives in the process."""

    def __init__(self, name: str, part: Part) -> None:
        self._name, self._part = name, part
        self._scorer: Scorer | None = None

    def __call__(self, samples: list[Sample]) -> tuple[list[Verdict], float]:
        worker_process.inside_worker = False  # rewards that bound themselves do so here as they would in a trainer
        if self._scorer is None:
            self._scorer = Scorer({self._name: self._part}, max_invalid_share=1.0)
        started = time.perf_counter()
        verdicts = self._scorer.score(samples)
        return verdicts, time.perf_counter() - started

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scorer": None}


def _in_a_thread(attempt: Attempt, samples: list[Sample], limit: float) -> Any:
    answers: list[Any] = []

    def work() -> None:
        try:
            answers.append(attempt(samples))
        except BaseException as error:  # noqa: BLE001 - it is told, not swallowed
            answers.append(failure_of(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit)
    return answers[0] if answers else Failure(f"no answer within {limit:g} s", timed_out=True)
