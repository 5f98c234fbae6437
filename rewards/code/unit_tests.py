"""Rewards a program for passing its unit tests."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rewards.code import bubblewrap, sandbox
from rewards.code.layers import Layer, check_names
from rewards.code.program import Case, Plan, plan_of, program_of, same_output
from rewards.errors import Failure, failure_of
from rewards.types import Sample, Score, timed_out

MAX_PROGRAM_CHARS = 100_000
TIMED_OUT = "timed out"
MIN_SECONDS = 0.05
"""What a case of a script must have left to be begun at all."""


@dataclass(frozen=True)
class UnitTests:
    """1.0 when the completion's program passes all tests, else 0.0 (or, with `partial`, the share that passed).

    The program is the last fenced block, else the whole completion. `tests` is a source with assert statements, a
    source that defines `check(candidate)` (then `entry_point` names the function), a list of assert sources, or pairs
    of input and output of a script: `[{"input": "1 2", "output": "3"}]` or `{"inputs": [...], "outputs": [...]}`.
    Outputs are equal when they differ only by white space at the ends of lines and empty lines at the end, and a script
    that ends with an exception or an exit status above 0 has failed. `setup` is trusted code that runs before the
    tests, for helpers that they need.

    The program runs apart from its tests and only exchanges plain data with them (None, numbers, text, bytes, lists,
    tuples, sets, dicts): leaving early, printing, and clever objects win nothing, and functions that must return
    classes, generators or callbacks cannot be tested so. `same_process` runs the tests inside the program's process,
    where they see its classes; a program can forge such a verdict.

    The program is confined in layers (`python -m rewards.code.sandbox` prints which of them hold here): it has the
    standard library, a private folder, no network, no other processes. So subprocess, multiprocessing, asyncio and
    sockets do not work; `without=["seccomp"]` lets it start processes. `require` names layers without which nothing is
    graded. Not protected: see `rewards.code`.
    """

    execution = "inline"  # every program has processes and a deadline of its own

    timeout_seconds: float = 3
    """Wall time of one program with all its tests."""
    memory_mb: int = 512
    """What the program may use beyond the interpreter."""
    partial: bool = False
    concurrency: int | None = None
    """Programs at a time in `score_batch`; None: as many as there are cores."""
    same_process: bool = False
    backend: str = "fork_server"
    """`fork_server`, or `bubblewrap`: the same inside a file system that holds nothing but the interpreter."""
    require: Sequence[str] = ()
    """Layers that must hold; otherwise the reward cannot be constructed."""
    without: Sequence[str] = ()
    """Layers to leave out."""

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds!r}")
        if self.memory_mb < 64:
            raise ValueError(f"memory_mb must be at least 64, got {self.memory_mb!r}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency!r}")
        if self.backend not in sandbox.BACKENDS:
            raise ValueError(f"backend must be one of {sandbox.BACKENDS}, got {self.backend!r}")
        if sys.platform != "linux":
            raise ValueError(f"the code sandbox must run on Linux, got {sys.platform}")
        if self.backend == "bubblewrap":
            bubblewrap.find()
        required, without = check_names("require", self.require), check_names("without", self.without)
        object.__setattr__(self, "require", tuple(sorted(required)))
        object.__setattr__(self, "without", tuple(sorted(without)))
        if required & without:
            raise ValueError(f"require must name no layer that without leaves out, got {sorted(required & without)}")
        if required:
            self._refuse_without_layers()

    def layers(self) -> Mapping[str, Layer]:
        """By name, whether each layer holds on this machine and how far, or why not."""
        return sandbox.layers(self._settings)

    def __call__(self, completion: str, tests: Any, entry_point: str | None = None, setup: str = "") -> Score:
        plan = plan_of(tests, entry_point)
        program = program_of(completion)
        if not program.strip() or len(program) > MAX_PROGRAM_CHARS:
            return self._score([], plan.total, f"a program must have from 1 to {MAX_PROGRAM_CHARS} characters")
        self._refuse_without_layers()
        if plan.cases:
            return self._of_cases(self._run_cases(program, plan.cases), plan.total)
        return self._run_tests(program, plan, setup)

    def score_batch(self, samples: Sequence[Sample]) -> list[Score | Failure]:
        """One score per sample; threads only wait for the processes."""
        with ThreadPoolExecutor(self.concurrency or len(os.sched_getaffinity(0))) as threads:
            return list(threads.map(self._score_or_failure, samples))

    @property
    def _settings(self) -> sandbox.Settings:
        return sandbox.Settings(self.backend, frozenset(self.without))

    def _refuse_without_layers(self) -> None:
        """Also before each program: a server that replaced another may have found less."""
        if not self.require:
            return
        found = self.layers()
        missing = [found[name] for name in self.require if not found[name].active]
        if missing:
            told = "; ".join(f"{layer.name} ({layer.detail})" for layer in missing)
            raise ValueError(f"require must name layers that hold on this machine, got {told}")

    def _score_or_failure(self, sample: Sample) -> Score | Failure:
        row = sample.row
        try:
            if "tests" not in row:
                raise ValueError(f"the row must have a column 'tests', got {sorted(row)}")
            return self(sample.completion, row["tests"], row.get("entry_point"), row.get("setup") or "")
        except Exception as error:  # noqa: BLE001 - a row without tests, or no process to be had: the grader's failure
            return failure_of(error)

    def _grade(self, job: Mapping[str, Any], *, script: bool, seconds: float) -> sandbox.Report:
        return sandbox.grade(
            job, script=script, timeout_seconds=seconds, memory_mb=self.memory_mb, settings=self._settings
        )

    def _run_tests(self, program: str, plan: Plan, setup: str) -> Score:
        job = {
            "program": program,
            "tests": plan.tests,
            "names": plan.names,
            "modules": plan.modules,
            "setup": setup,
            "same_process": self.same_process,
        }
        report = self._grade(job, script=False, seconds=self.timeout_seconds)
        said = {name: text for line in report.lines for name, text in line.items()}
        if "setup" in said:
            raise ValueError(f"setup must run before the tests, got {said['setup']}")
        ended = TIMED_OUT if report.timed_out else "the tests ended early"
        outcomes = [str(line["outcome"]) for line in report.lines if "outcome" in line]
        otherwise = f"program: {said['program']}" if "program" in said else ended
        return self._score(outcomes, plan.total, otherwise, overran=report.timed_out)

    def _of_cases(self, outcomes: Sequence[str], total: int) -> Score:
        return self._score(outcomes, total, TIMED_OUT, overran=TIMED_OUT in outcomes or len(outcomes) < total)

    def _run_cases(self, program: str, cases: Sequence[Case]) -> list[str]:
        """The outcome of each case that there was time for."""
        deadline = time.monotonic() + self.timeout_seconds
        outcomes: list[str] = []
        for case in cases:
            left = deadline - time.monotonic()
            if left < MIN_SECONDS:  # so little would be spent on starting, which is not the program's doing
                break
            report = self._grade({"program": program, "stdin": case.stdin}, script=True, seconds=left)
            outcomes.append(_outcome(report, case.stdout))
        return outcomes

    def _score(self, outcomes: Sequence[str], total: int, otherwise: str, *, overran: bool = False) -> Score:
        """`otherwise` is why outcomes are missing, if they are."""
        passed = sum(outcome == "" for outcome in outcomes)
        wrong = next((f"test {n + 1} of {total}: {what}" for n, what in enumerate(outcomes) if what), "")
        reason = wrong or ("passed" if passed == total else otherwise)
        value = passed / total if self.partial else float(passed == total)
        info = {"reason": reason, "passed": passed, "total": total, **timed_out(overran)}
        return Score(value, metrics={"passed_share": passed / total}, info=info)


def _outcome(report: sandbox.Report, expected: str) -> str:
    """Empty where a script printed what it should and ended well, else what was wrong."""
    if report.timed_out:
        return TIMED_OUT
    if not report.lines:
        raise sandbox.SandboxError("nobody kept what the script printed")
    (printed,) = report.lines
    if report.status:
        how = f"exit status {report.status}" if report.status > 0 else f"killed by signal {-report.status}"
        return f"{how}: {printed['stderr']}".rstrip(": ")
    if printed["too_long"]:
        return "it printed more than may be kept"
    return "" if same_output(printed["stdout"], expected) else f"printed {printed['stdout'][:80]!r}"
