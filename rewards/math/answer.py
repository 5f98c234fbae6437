"""The check of a mathematical answer: extract, compare exactly, and only then ask sympy, in a killable worker."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards import worker_process
from rewards.errors import Failure
from rewards.math.cleaning import clean, words
from rewards.math.exact import number, numbers_equal
from rewards.math.extraction import extract
from rewards.types import Sample, Score
from rewards.workers import Pool

MAX_ANSWER_CHARS = 1000
Pair = tuple[str, str]


@dataclass(frozen=True)
class MathAnswer:
    r"""1.0 when the completion's answer equals the key, else 0.0 with a reason; never evaluates text as Python.

    The answer is the last `\boxed{}`, or what stands inside the last `<tag>` or after the last marker. A key may be an
    integer, a float or LaTeX, boxed or not. A comparison that overruns its time scores 0: the completion chose it.

    >>> MathAnswer()(completion=r"so we get \boxed{\frac{3}{4}}", answer="0.75").value
    1.0
    """

    execution = "inline"  # plain numbers take microseconds; everything else goes to a worker of its own

    marker: str | None = None
    """Text before the answer, in any case, such as `####` or `answer is`; asked when no box is found."""
    boxed: bool = True
    tag: str | None = None
    """`answer`: look inside `<answer>...</answer>` first."""
    timeout_seconds: float = 2.0
    """Wall time of one comparison."""

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds!r}")
        if not (self.boxed or self.marker or self.tag):
            raise ValueError(f"boxed, marker or tag must say where the answer stands, got {self!r}")

    def __call__(self, completion: str, answer: int | float | str) -> Score:
        return self._scores([(completion, answer)])[0]

    def score_batch(self, samples: Sequence[Sample]) -> list[Score | Failure]:
        """One score per sample; a row without `answer` is a failure of its own."""
        scores: list[Any] = [Failure(f"the row has no column 'answer', it has {sorted(s.row)}") for s in samples]
        keyed = [index for index, sample in enumerate(samples) if sample.row.get("answer") is not None]
        found = self._scores([(samples[index].completion, samples[index].row["answer"]) for index in keyed])
        for index, score in zip(keyed, found, strict=True):
            scores[index] = score
        return scores

    def _scores(self, asked: Sequence[tuple[str, Any]]) -> list[Score]:
        extracted = [extract(text, marker=self.marker, boxed=self.boxed, tag=self.tag) for text, _ in asked]
        keys = [_key_text(key) for _, key in asked]
        verdicts = [_quick_verdict(key, text) for key, text in zip(keys, extracted, strict=True)]
        open_indices = [index for index, verdict in enumerate(verdicts) if verdict is None]
        judged = _judged([(keys[index], extracted[index] or "") for index in open_indices], self.timeout_seconds)
        for index, verdict in zip(open_indices, judged, strict=True):
            verdicts[index] = verdict
        return [_score(verdict, text) for verdict, text in zip(verdicts, extracted, strict=True)]


def _score(verdict: tuple[bool, str] | None, extracted: str | None) -> Score:
    assert verdict is not None
    right, reason = verdict
    return Score(float(right), info={"reason": reason, "extracted": (extracted or "")[:200]})


def _key_text(key: Any) -> str:
    text = str(key)
    if isinstance(key, float):
        text = f"{key:.15g}"
        return text if "e" not in text else f"{key:.30f}".rstrip("0").rstrip(".")
    return extract(text, boxed=True) or text


def _quick_verdict(key: str, text: str | None) -> tuple[bool, str] | None:
    """What needs no algebra: nothing found, too long, the same words, two plain numbers. None where it does."""
    if text is None or not text.strip():
        return False, "no answer found"
    if len(text) > MAX_ANSWER_CHARS:
        return False, "the answer is too long"
    key_clean, text_clean = clean(key), clean(text)
    key_number, text_number = number(key_clean), number(text_clean)
    if key_number and text_number:
        equal = numbers_equal(key_number, text_number)
        return equal, "equal" if equal else "different"
    return (True, "equal") if _same_words(key_clean, text_clean) else None


def _same_words(key: str, text: str) -> bool:
    """The same text, in any case from three letters on: `X` and `x` may be different unknowns."""
    if key == text:
        return True
    key, text = words(key), words(text)
    if not key.replace(" ", "").isalpha():
        return False
    return key == text or (key.lower() == text.lower() and (len(key) > 2 or key.lower() == "no"))


@functools.cache
def _pool() -> Pool:
    from rewards.math.equivalence import judge

    return Pool({"math": judge})


def _judged(pairs: Sequence[Pair], timeout_seconds: float) -> list[tuple[bool, str]]:
    if not pairs:
        return []
    if worker_process.inside_worker:
        from rewards.math.equivalence import judge

        return [judge(pair) for pair in pairs]
    answers = _pool().run("math", pairs, timeout_seconds=timeout_seconds)
    return [_verdict_of(answer) for answer in answers]


def _verdict_of(answer: Any) -> tuple[bool, str]:
    if isinstance(answer, Failure):
        return False, "timed out" if answer.timed_out else f"not understood: {answer.reason}"
    return answer
