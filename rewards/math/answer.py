"""The check of a mathematical answer: extract, compare exactly, and only then ask sympy, in a killable worker."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards import worker_process
from rewards.errors import Failure
from rewards.math.choices import chosen
from rewards.math.cleaning import clean, words
from rewards.math.exact import Number, number, numbers_equal, with_decimal_comma
from rewards.math.extraction import ANYWHERE, SEVERAL, SeveralAnswersError, extract
from rewards.math.pair import Pair
from rewards.types import Sample, Score
from rewards.workers import Pool

MAX_ANSWER_CHARS = 1000
MAX_TIMES_KEY, MAX_BEYOND_KEY = 4, 32
"""An answer may have 4 x the key's characters + 32: a longer one tells a story, or hides a question."""
MIN_COPIED_CHARS = 3
Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class MathAnswer:
    r"""1.0 when the completion's answer equals the key, else 0.0 with a reason; never evaluates text as Python.

    The answer is what stands inside the last `<tag>`, else the last `\boxed{}`, else what follows the last marker.
    A key may be an integer, a float or LaTeX, boxed or not. A comparison that overruns its time scores 0: the
    completion chose it. A key that is no mathematics to us, and is not repeated word by word, is the data's failure.

    >>> MathAnswer()(completion=r"so we get \boxed{\frac{3}{4}}", answer="0.75").value
    1.0
    """

    execution = "inline"  # plain numbers take microseconds; everything else goes to a worker of its own

    marker: str | Sequence[str] | None = "answer is"
    """Text before the answer, in any case, such as `####`, or several; asked when no box is found."""
    boxed: bool = True
    tag: str | None = None
    """`answer`: look inside `<answer>...</answer>` first."""
    timeout_seconds: float = 2.0
    """Wall time of one comparison."""
    several: str = "refuse"
    """Boxes in different places that disagree: `refuse` them all, or let the `last` one count."""
    anywhere: str | None = None
    """Without tag, box and marker: the last `formula` between dollars, the last `number`, or the later of `both`."""
    choices: Sequence[str] = ()
    """`ABCDE`: keys among these are letters of a multiple choice, and `(C) 42` answers C."""
    decimals: int | None = None
    """So many digits behind the point suffice where one side is more exact; None: 4 significant digits."""
    inequalities: bool = True
    """Whether `x > 5` may answer for a key of `(5, \\infty)`."""
    key_in_text: bool = False
    """The row's answer is a worked solution; its own answer is found as that of a completion is."""

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds!r}")
        if not (self.boxed or self.marker or self.tag or self.anywhere):
            raise ValueError(f"boxed, marker, tag or anywhere must say where the answer stands, got {self!r}")
        if self.several not in SEVERAL:
            raise ValueError(f"several must be one of {', '.join(SEVERAL)}, got {self.several!r}")
        if self.anywhere is not None and self.anywhere not in ANYWHERE:
            raise ValueError(f"anywhere must be null or one of {', '.join(ANYWHERE)}, got {self.anywhere!r}")
        if self.decimals is not None and self.decimals < 1:
            raise ValueError(f"decimals must be at least 1, got {self.decimals!r}")
        if any(len(choice) != 1 or not choice.isalpha() for choice in self.choices):
            raise ValueError(f"choices must be letters, got {self.choices!r}")

    def __call__(self, completion: str, answer: int | float | str, prompt: str = "") -> Score:
        """Raises `ValueError` where the key cannot be judged by. `prompt`: a formula of it is no answer to it."""
        (score,) = self._scores([(completion, answer, prompt)])
        if isinstance(score, Failure):
            raise ValueError(score.reason)
        return score

    def score_batch(self, samples: Sequence[Sample]) -> list[Score | Failure]:
        """One score per sample; a row without `answer`, or with one that cannot be judged by, is a failure."""
        scores: list[Any] = [Failure(f"the row has no column 'answer', it has {sorted(s.row)}") for s in samples]
        keyed = [index for index, sample in enumerate(samples) if sample.row.get("answer") is not None]
        asked = [(samples[index].completion, samples[index].row["answer"], samples[index].prompt) for index in keyed]
        for index, score in zip(keyed, self._scores(asked), strict=True):
            scores[index] = score
        return scores

    def _scores(self, asked: Sequence[tuple[str, Any, str]]) -> list[Score | Failure]:
        found: list[str] = []
        verdicts: list[Verdict | None] = []
        pairs: dict[int, Pair] = {}
        for index, (completion, answer, prompt) in enumerate(asked):
            key = self._key(answer)
            text, verdict = self._found(completion)
            verdict = verdict or self._quick_verdict(key, text)
            if verdict is None:
                pairs[index] = Pair(key, text, self.decimals, self.inequalities, _is_copied(text, prompt))
            found.append(text)
            verdicts.append(verdict)
        for index, verdict in zip(pairs, _judged(list(pairs.values()), self.timeout_seconds), strict=True):
            verdicts[index] = verdict
        return [_score(verdict, text) for verdict, text in zip(verdicts, found, strict=True)]

    def _key(self, answer: Any) -> str:
        if isinstance(answer, float):
            text = f"{answer:.15g}"
            return text if "e" not in text else f"{answer:.30f}".rstrip("0").rstrip(".")
        text = str(answer)
        if self.key_in_text:
            return extract(text, marker=self.marker, several="last", anywhere=self.anywhere) or text
        return (extract(text, several="last") or text) if "\\" in text else text

    def _found(self, completion: str) -> tuple[str, Verdict | None]:
        """The answer's text, and the verdict where that is enough for one."""
        try:
            text = extract(
                completion,
                marker=self.marker,
                boxed=self.boxed,
                tag=self.tag,
                several=self.several,
                anywhere=self.anywhere,
            )
        except SeveralAnswersError as error:
            return "", (False, f"several different answers: {error}")
        if text is None or not text.strip():
            return "", (False, "no answer found")
        if len(text) > MAX_ANSWER_CHARS:
            return text, (False, "the answer is too long")
        return text, None

    def _quick_verdict(self, key: str, text: str) -> Verdict | None:
        """What needs no algebra: a choice, two plain numbers, the same words, too long. None where it does."""
        key_clean, key_number = _reading_of_key(key)
        if self.choices and (letter := words(key_clean)) in self.choices:
            return _told(chosen(text, self.choices) == letter)
        text_clean, text_number = _reading(text)
        if key_number and text_number:
            return _told(numbers_equal(key_number, text_number, self.decimals))
        if _same_words(key_clean, text_clean):
            return _told(True)
        key_number, text_number = _with_comma(key_clean, key_number, text_clean, text_number)
        if key_number and text_number:
            return _told(numbers_equal(key_number, text_number, self.decimals))
        if len(text_clean) > MAX_TIMES_KEY * len(key_clean) + MAX_BEYOND_KEY:
            return False, f"longer than {MAX_TIMES_KEY} x the key + {MAX_BEYOND_KEY} characters"
        return None


def _told(equal: bool) -> Verdict:
    return (True, "equal") if equal else (False, "different")


def _reading(text: str) -> tuple[str, Number | None]:
    """A text cleaned, and the plain number that it is."""
    found = number(text)
    if found:
        return text, found
    cleaned = clean(text)
    return cleaned, number(cleaned)


@functools.lru_cache(maxsize=4096)
def _reading_of_key(text: str) -> tuple[str, Number | None]:
    """The samples of a group share their key."""
    return _reading(text)


def _with_comma(
    key: str, key_number: Number | None, text: str, text_number: Number | None
) -> tuple[Number | None, Number | None]:
    """`2,74` is a number where the other side is one with a decimal point."""
    if key_number and key_number.decimals is not None:
        return key_number, with_decimal_comma(text)
    if text_number and text_number.decimals is not None:
        return with_decimal_comma(key), text_number
    return None, None


def _same_words(key: str, text: str) -> bool:
    """The same text, in any case from three letters on: `X` and `x` may be different unknowns."""
    if key == text:
        return True
    key, text = words(key), words(text)
    if not key.replace(" ", "").isalpha():
        return False
    return key == text or (key.lower() == text.lower() and (len(key) > 2 or key.lower() == "no"))


def _is_copied(text: str, prompt: str) -> bool:
    """Whether the answer stands in the prompt as it is."""
    if not prompt:
        return False
    squeezed = "".join(clean(text).split())
    return len(squeezed) >= MIN_COPIED_CHARS and squeezed in "".join(clean(prompt).split())


def _score(verdict: Verdict | None, text: str) -> Score | Failure:
    assert verdict is not None
    right, reason = verdict
    if right is None:
        return Failure(reason)
    return Score(float(right), info={"reason": reason, "extracted": text[:200]})


@functools.cache
def _pool() -> Pool:
    from rewards.math.worker import judge_alone

    return Pool({"math": judge_alone})


def _judged(pairs: Sequence[Pair], timeout_seconds: float) -> list[Verdict]:
    if not pairs:
        return []
    if worker_process.inside_worker:
        from rewards.math.equivalence import judge

        return [judge(pair) for pair in pairs]
    answers = _pool().run("math", pairs, timeout_seconds=timeout_seconds)
    return [_verdict_of(answer) for answer in answers]


def _verdict_of(answer: Any) -> Verdict:
    if isinstance(answer, Failure):
        return False, "timed out" if answer.timed_out else f"not understood: {answer.reason}"
    return answer
