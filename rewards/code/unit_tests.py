"""Rewards a program for passing its unit tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rewards.code.program import program_of, split_tests
from rewards.code.sandbox import run_tests
from rewards.code.tester_process import SETUP_FAILED
from rewards.errors import Failure, failure_of
from rewards.types import Sample, Score

MAX_PROGRAM_CHARS = 100_000


@dataclass(frozen=True)
class UnitTests:
    """1.0 when the completion's program passes all tests, else 0.0 (or, with `partial`, the share that passed).

    The program is the last fenced block, else the whole completion. `tests` is a source with assert statements, a
    source that defines `check(candidate)` (then `entry_point` names the function), or a list of assert sources.
    `setup` is trusted code that runs before them, for helpers that the tests need.

    The program runs apart from its tests and only exchanges plain data with them (None, numbers, text, bytes, lists,
    tuples, sets, dicts): leaving early, printing, and clever objects win nothing, and functions that must return
    classes, generators or callbacks cannot be tested. Its imports are the standard library's.

    This is no security boundary. Time, memory, file size, environment and working folder are limited. Not protected:
    the network, reading and writing the user's other files, signals to the user's processes, reading the memory of
    the testing process, and processes that leave the program's session and so outlive it. Run untrusted models in a
    container or a virtual machine.
    """

    execution = "inline"  # every program has processes and a deadline of its own

    timeout_seconds: float = 3
    """Wall time of one program with all its tests, two starts of an interpreter included."""
    memory_mb: int = 512
    partial: bool = False
    concurrency: int | None = None
    """Programs at a time in `score_batch`; None: as many as there are cores."""

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds!r}")
        if self.memory_mb < 64:
            raise ValueError(f"memory_mb must be at least 64, got {self.memory_mb!r}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency!r}")

    def __call__(
        self, completion: str, tests: str | Sequence[str], entry_point: str | None = None, setup: str = ""
    ) -> Score:
        statements, names = split_tests(tests, entry_point)
        program = program_of(completion)
        if not program.strip() or len(program) > MAX_PROGRAM_CHARS:
            return self._score([], len(statements), f"a program must have from 1 to {MAX_PROGRAM_CHARS} characters")
        job = {"program": program, "tests": statements, "names": names, "setup": setup}
        outcomes, timed_out = run_tests(job, timeout_seconds=self.timeout_seconds, memory_mb=self.memory_mb)
        if outcomes and outcomes[0].startswith(SETUP_FAILED):
            raise ValueError(f"setup must run before the tests, got {outcomes[0]}")
        ended = "timed out" if timed_out else "the tests ended early"
        return self._score(outcomes, len(statements), ended)

    def score_batch(self, samples: Sequence[Sample]) -> list[Score | Failure]:
        """One score per sample; threads only wait for the processes."""
        with ThreadPoolExecutor(self.concurrency or os.cpu_count() or 1) as threads:
            return list(threads.map(self._score_or_failure, samples))

    def _score_or_failure(self, sample: Sample) -> Score | Failure:
        row = sample.row
        try:
            return self(sample.completion, row["tests"], row.get("entry_point"), row.get("setup") or "")
        except Exception as error:  # noqa: BLE001 - a row without tests, or no process to be had: the grader's failure
            return failure_of(error)

    def _score(self, outcomes: Sequence[str], total: int, otherwise: str) -> Score:
        """`otherwise` is why outcomes are missing, if they are."""
        passed = sum(outcome == "" for outcome in outcomes)
        wrong = next((outcome for outcome in outcomes if outcome), "" if passed == total else otherwise)
        value = passed / total if self.partial else float(passed == total)
        info = {"reason": wrong or "passed", "passed": passed, "total": total}
        return Score(value, metrics={"passed_share": passed / total}, info=info)
