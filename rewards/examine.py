"""A reward examined: its parts tried on rows and on the hostile set, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.calling import is_batched
from rewards.combine import Part, as_parts, combined
from rewards.hostile import UNPAID, hostile_samples
from rewards.scoring import Scorer, Verdict
from rewards.trial import Trial, Tried
from rewards.types import Sample, Score

FAULTS = {
    "raises": "an exception instead of a score",
    "hangs": "no answer within its time limit",
    "dies": "its process ended",
    "no_number": "something that is neither a number nor a Score",
    "not_finite": "NaN or infinite",
    "wrong_length": "score_batch gave another number of scores than it got samples",
    "unrepeatable": "another score for the same sample",
    "rewards_empty": "more than 0 for an empty completion",
    "rewards_echo": "more than 0 for repeating the prompt",
    "not_tried": "it had hung too often",
}
"""What a reward can be found to do wrong."""
_SIGNS = (
    ("a reward must return a number", "no_number"),
    ("a score must be a finite number", "not_finite"),
    ("one score per sample", "wrong_length"),
    ("no answer within", "hangs"),
    ("its worker process died", "dies"),
    ("SystemExit", "dies"),
    ("not tried", "not_tried"),
)
AT_ONCE = 32
"""Rows that a batched part is shown in one call, to count its scores."""


def check_allowed(allow: Sequence[str]) -> None:
    """Raise `ValueError` for a fault that is not known."""
    unknown = sorted(set(allow) - set(FAULTS))
    if unknown:
        raise ValueError(f"allow must be some of {', '.join(FAULTS)}, got {unknown[0]!r}")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a part did wrong."""

    part: str
    kind: str
    """A key of `FAULTS`."""
    where: str
    """The sample: `row 3`, `hostile huge_word`."""
    told: str
    """The reason, with the completion's first characters."""

    def __str__(self) -> str:
        return f"{self.part} {self.kind} on {self.where}: {self.told}"


@dataclass(frozen=True, slots=True)
class Line:
    """One sample, or several in one call, and what the parts made of it."""

    where: str
    scores: Mapping[str, Score]
    """Of the parts that gave one."""
    reasons: Mapping[str, str]
    seconds: Mapping[str, float]
    total: float | None = None
    """None where a part gave no score."""
    faults: tuple[Fault, ...] = field(default=())


def examine(
    reward: Any, rows: Sequence[Sample], *, hostile: bool = True, timeout_seconds: float = 10.0
) -> Iterator[Line]:
    """A line for each row, then for the hostile samples, which take their prompt and columns from the first row.

    `reward` is what `as_parts` takes. `timeout_seconds` of a call holds for parts without a limit of their own.
    Raises `ValueError` for a reward that asks for columns which the rows do not have.
    """
    parts = as_parts(reward)
    first = rows[0] if rows else Sample("What is 2 + 2?", "4")
    asking = Scorer({name: replace(part, execution="inline") for name, part in parts.items()})
    for sample in rows or [first]:
        asking.require(sample.row)
    with ExitStack() as stack:
        trials = {
            name: stack.enter_context(closing(Trial(name, part, timeout_seconds=timeout_seconds)))
            for name, part in parts.items()
        }
        for number, sample in enumerate(rows, start=1):
            yield _line(f"row {number}", sample, parts, trials)
        yield from _at_once(list(rows) or [first], parts, trials)
        if hostile:
            for bad in hostile_samples(first.prompt, row=first.row, messages=first.messages):
                yield _line(f"hostile {bad.name}", bad.sample, parts, trials, UNPAID.get(bad.name))
            yield _repeated(first, parts, trials)


def _line(
    where: str, sample: Sample, parts: Mapping[str, Part], trials: Mapping[str, Trial], unpaid: str | None = None
) -> Line:
    tried = {name: trial.ask([sample]) for name, trial in trials.items()}
    faults = [fault for name in parts for fault in _faults(name, where, tried[name], [sample])]
    verdicts = {name: found.verdicts[0] for name, found in tried.items() if found.verdicts and found.verdicts[0].valid}
    scores = {name: verdict.parts[name] for name, verdict in verdicts.items()}
    for name, part in parts.items():
        if unpaid and not part.gate and name in scores and part.weight * float(scores[name]) > 0:
            faults.append(Fault(name, unpaid, where, f"{float(scores[name]):g} for {sample.completion[:80]!r}"))
    return Line(
        where,
        scores,
        {name: _reason(name, found) for name, found in tried.items()},
        {name: found.seconds for name, found in tried.items()},
        _total(parts, scores),
        tuple(faults),
    )


def _at_once(samples: Sequence[Sample], parts: Mapping[str, Part], trials: Mapping[str, Trial]) -> Iterator[Line]:
    """All rows in one call of the parts that take many, and at least two."""
    batched = [name for name, part in parts.items() if is_batched(part.fn)]
    shown = [*samples, *samples][: max(2, min(len(samples), AT_ONCE))]
    for name in batched:
        tried = trials[name].ask(shown)
        where = f"{len(shown)} rows at once"
        faults = _faults(name, where, tried, shown)
        yield Line(where, {}, {name: _reason(name, tried)}, {name: tried.seconds}, None, tuple(faults))


def _repeated(sample: Sample, parts: Mapping[str, Part], trials: Mapping[str, Trial]) -> Line:
    """Whether a second call says the same."""
    where, faults, seconds = "the first row again", [], {}
    for name in parts:
        values = []
        for tried in (trials[name].ask([sample]), trials[name].ask([sample])):
            values += [float(verdict.parts[name]) for verdict in tried.verdicts if verdict.valid]
            seconds[name] = tried.seconds
        if len(values) == 2 and values[0] != values[1]:
            told = f"{values[0]:g}, then {values[1]:g} for {sample.completion[:80]!r}"
            faults.append(Fault(name, "unrepeatable", where, told))
    return Line(where, {}, {}, seconds, None, tuple(faults))


def _total(parts: Mapping[str, Part], scores: Mapping[str, Score]) -> float | None:
    if set(scores) != set(parts):
        return None
    value, spans = combined(parts, scores)
    return value + sum(reward for _, _, reward in spans)


def _reason(name: str, tried: Tried) -> str:
    if tried.failure is not None:
        return tried.failure.reason
    return "; ".join(dict.fromkeys(_without_name(name, verdict) for verdict in tried.verdicts if verdict.reason))


def _faults(name: str, where: str, tried: Tried, samples: Sequence[Sample]) -> list[Fault]:
    if tried.failure is not None:
        told = f"{tried.failure.reason}, on completion {samples[0].completion[:80]!r}"
        told += f"\n{tried.failure.trace}" if tried.failure.trace else ""
        return [Fault(name, _kind(tried.failure.reason), where, told)]
    failed = [verdict for verdict in tried.verdicts if not verdict.valid]
    return [Fault(name, _kind(verdict.reason), where, _without_name(name, verdict)) for verdict in failed[:1]]


def _without_name(name: str, verdict: Verdict) -> str:
    return verdict.reason.removeprefix(f"reward.{name} failed: ").removeprefix(f"{name}: ")


def _kind(reason: str) -> str:
    return next((kind for sign, kind in _SIGNS if sign in reason.partition(", on completion")[0]), "raises")
