"""Rewards for the form of a completion: tags by a linear scan, and the user's own pattern under a time limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.bounded import bounded
from rewards.errors import Failure
from rewards.types import Score, timed_out

if TYPE_CHECKING:
    import regex

MODES = ("search", "fullmatch", "count")
FLAGS = {"i": "IGNORECASE", "m": "MULTILINE", "s": "DOTALL", "x": "VERBOSE"}
KILL_SECONDS = 1.0
"""What a direct call's worker gets beyond the engine's own limit before it is killed."""


@dataclass(frozen=True)
class TagFormat:
    """1.0 when the completion consists of complete, unnested `<tag>...</tag>` pairs, else 0.0 with the reason.

    >>> TagFormat()(completion="<think>3 + 4</think> <answer>7</answer>").value
    1.0
    >>> TagFormat()(completion="<answer>7</answer><think>3 + 4</think>").info["reason"]
    'tags are not in the order think, answer'
    """

    execution = "inline"  # a few passes of str.find over the text

    tags: tuple[str, ...] = ("think", "answer")
    exactly_once: bool = True
    """False: a tag may come again, but must come."""
    in_order: bool = True
    nothing_outside: bool = True
    """Only white space before, between and after the pairs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tuple(self.tags))  # Hydra gives a list
        wrong = [tag for tag in self.tags if not isinstance(tag, str) or not tag or set(tag) & set("<>/ ")]
        if not self.tags or wrong or len(set(self.tags)) < len(self.tags):
            raise ValueError(f"tags must be different words without brackets, got {self.tags!r}")

    def __call__(self, completion: str) -> Score:
        reason = self._fault(completion)
        return Score(0.0, info={"reason": reason}) if reason else Score(1.0)

    def _fault(self, text: str) -> str:
        pairs, fault = _pairs(text, self.tags)
        found = [tag for tag, _, _ in pairs]
        missing = [tag for tag in self.tags if tag not in found]
        if fault or missing:
            return fault or f"<{missing[0]}> is missing"
        if self.exactly_once and len(found) > len(self.tags):
            return f"<{next(tag for tag in found if found.count(tag) > 1)}> comes more than once"
        order = [self.tags.index(tag) for tag in found]
        if self.in_order and order != sorted(order):
            return f"tags are not in the order {', '.join(self.tags)}"
        starts, ends = [start for _, start, _ in pairs], [end for _, _, end in pairs]
        outside = zip([0, *ends], [*starts, len(text)], strict=True)
        if self.nothing_outside and any(text[start:end].strip() for start, end in outside):
            return "there is text outside the tags"
        return ""


def _pairs(text: str, tags: tuple[str, ...]) -> tuple[list[tuple[str, int, int]], str]:
    """The `(tag, start, end)` of each pair in order, and what is wrong with the first bad one."""
    marks = sorted(
        (position, slash == "", tag)
        for tag in tags
        for slash in ("", "/")
        for position in _positions(text, f"<{slash}{tag}>")
    )
    pairs: list[tuple[str, int, int]] = []
    opened: tuple[str, int] | None = None
    for position, opens, tag in marks:
        if opens and opened:
            return pairs, f"<{tag}> opens inside <{opened[0]}>"
        if not opens and (opened is None or opened[0] != tag):
            return pairs, f"</{tag}> closes what is not open"
        if opened and not opens:
            pairs.append((tag, opened[1], position + len(tag) + 3))
        opened = (tag, position) if opens else None
    return pairs, f"<{opened[0]}> is not closed" if opened else ""


def _positions(text: str, mark: str) -> list[int]:
    positions, position = [], text.find(mark)
    while position >= 0:
        positions.append(position)
        position = text.find(mark, position + len(mark))
    return positions


@dataclass(frozen=True)
class RegexReward:
    """1.0 where the pattern matches (`count`: the number of matches), 0.0 where it does not or takes too long.

    The engine is `regex`, not `re`. Its own time limit counts the CPU time of the whole process and holds the
    interpreter meanwhile, so beside a trainer's threads it would cut some matches short and stall the rest. Therefore
    no match is made in the trainer: a `Scorer` runs this in its worker process, a direct call in one of its own. There
    the clock is the match's alone, and one that the engine fails to interrupt is killed with its process.
    """

    timeout_is_zero = True

    pattern: str
    flags: str = ""
    """Letters of `i` ignore case, `m` multiline, `s` dot matches newline, `x` verbose."""
    mode: str = "search"
    timeout_seconds: float = 0.1
    max_chars: int = 32768
    """A longer completion scores 0; a cut one could match what the whole does not."""
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds!r}")
        if self.max_chars < 1:
            raise ValueError(f"max_chars must be at least 1, got {self.max_chars!r}")
        object.__setattr__(self, "_compiled", _compiled(self.pattern, self.flags))

    def __call__(self, completion: str) -> Score:
        if len(completion) > self.max_chars:
            return Score(0.0, info={"reason": f"longer than {self.max_chars} characters"})
        answer = bounded(_matches, [(self, completion)], timeout_seconds=self.timeout_seconds + KILL_SECONDS)[0]
        if answer is None or (isinstance(answer, Failure) and answer.timed_out):
            return Score(0.0, info={"reason": "timed out", **timed_out()})
        if isinstance(answer, Failure):
            raise RuntimeError(answer.reason)
        return Score(answer) if answer else Score(0.0, info={"reason": "no match"})

    def _value(self, text: str) -> float:
        if self.mode == "count":
            deadline_aware = self._compiled.finditer(text, timeout=self.timeout_seconds)
            return float(sum(1 for _ in deadline_aware))
        match = self._compiled.search if self.mode == "search" else self._compiled.fullmatch
        return float(match(text, timeout=self.timeout_seconds) is not None)


def _matches(call: tuple[RegexReward, str]) -> float | None:
    """How often the pattern matches (1.0 for once, unless all are counted); None where the engine gave up."""
    reward, text = call
    try:
        return reward._value(text)
    except TimeoutError:
        return None


def _compiled(pattern: str, flags: str) -> regex.Pattern[str]:
    import regex  # only who chooses a pattern needs the package

    unknown = set(flags) - set(FLAGS)
    if unknown:
        raise ValueError(f"flags must be letters of {''.join(FLAGS)}, got {flags!r}")
    try:
        return regex.compile(pattern, sum(int(getattr(regex, FLAGS[letter])) for letter in set(flags)))
    except (regex.error, TypeError) as error:
        raise ValueError(f"pattern must be a regular expression, got {pattern!r}: {error}") from error
