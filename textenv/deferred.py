"""Scores that are computed on a thread while other rows still decode.

What one step ended is one batch, so a batched reward sees the same samples together as in immediate scoring. Batches
are taken in order, and all that wait at a time: coroutines and workers serve them at once. When they are done decides
nothing but when they can be had. The thread lives only while there is something to score.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from rewards.errors import RewardError
from rewards.scoring import Scorer, Verdict
from textenv.ended import Due, Ended, settled

THREAD_NAME = "textenv-scores"
CLOSE_SECONDS = 5.0
"""How long `close` waits for a call that cannot be broken off: a plain function that runs inline."""


class Job:
    """The episodes that one step ended."""

    def __init__(self, due: Due) -> None:
        self.due = due
        self.outcome: list[Verdict] | BaseException | None = None
        """None: not there yet."""

    @functools.cached_property
    def settled(self) -> tuple[list[Ended], list[float]]:
        """The episodes and their rewards, once the outcome is there; raises the error that came of it instead."""
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        assert self.outcome is not None
        return settled(self.due, self.outcome)


class DeferredScores:
    """A queue before a scorer. One thread submits and takes, another, which starts and ends by itself, scores."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._jobs: deque[Job] = deque()
        """Not delivered yet, in the order in which they came."""
        self._begin_without_thread()

    def _begin_without_thread(self) -> None:
        self._waiting: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._cancelled = threading.Event()

    def submit(self, due: Due) -> Job:
        """Have these episodes scored, behind all others."""
        job = Job(due)
        with self._changed:
            self._jobs.append(job)
            self._waiting.append(job)
            if self._thread is None:
                thread = threading.Thread(target=self._work, args=(self._cancelled,), name=THREAD_NAME, daemon=True)
                thread.start()
                self._thread = thread
        return job

    def take(self, *, wait: bool) -> list[Job]:
        """Jobs not taken before, in order: all of them, or without `wait` those that are done up to the first that
        is not. Raises what the first failing one raised; that one is gone then, the others stay."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._failed() is not None or self._idle())
            failed = self._failed()
            if failed is not None:
                assert isinstance(failed.outcome, BaseException)
                self._jobs.remove(failed)
                raise failed.outcome
            done = []
            while self._jobs and self._jobs[0].outcome is not None:
                done.append(self._jobs.popleft())
            return done

    def wait_for(self, job: Job) -> list[Ended]:
        """The episodes of a job, taken or not. Raises what came of it instead."""
        with self._changed:
            self._changed.wait_for(lambda: job.outcome is not None)
        return job.settled[0]

    def settle(self) -> None:
        """Wait until nothing is being scored; nothing is taken."""
        with self._changed:
            self._changed.wait_for(self._idle)

    def forget(self) -> None:
        """Nobody will take what was submitted so far, and what the thread has not begun with is not scored."""
        with self._changed:
            for job in self._waiting:
                job.outcome = RewardError("the episode was not scored: reset() or close() came before its turn")
            self._waiting.clear()
            self._jobs.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Forget everything, break off what is being scored, and end the thread; a later `submit` starts another."""
        self.forget()
        with self._changed:
            thread, cancelled = self._thread, self._cancelled
            self._thread, self._cancelled = None, threading.Event()
            cancelled.set()
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return {"_scorer": self._scorer, "_jobs": self._jobs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_without_thread()

    def _failed(self) -> Job | None:
        """The first job that raised, among those that could be taken."""
        for job in self._jobs:
            if not isinstance(job.outcome, list):
                return job if job.outcome is not None else None
        return None

    def _idle(self) -> bool:
        return self._thread is None

    def _work(self, cancelled: threading.Event) -> None:
        while jobs := self._next(cancelled):
            outcomes = self._outcomes(jobs, cancelled)
            with self._changed:
                for job, outcome in zip(jobs, outcomes, strict=True):
                    job.outcome = outcome
                self._changed.notify_all()

    def _next(self, cancelled: threading.Event) -> list[Job]:
        """All jobs that wait; none: the thread ends, and the lock sees to it that `submit` knows."""
        with self._changed:
            if cancelled.is_set():
                return []
            jobs = list(self._waiting)
            self._waiting.clear()
            if not jobs:
                self._thread = None
                self._changed.notify_all()
            return jobs

    def _outcomes(self, jobs: Sequence[Job], cancelled: threading.Event) -> Sequence[list[Verdict] | BaseException]:
        try:
            return self._scorer.score_batches([job.due.batch for job in jobs], cancelled=cancelled)
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it: whoever asks for the scores gets it
            return [error] * len(jobs)
