"""The check of a mathematical answer: extract, compare exactly, and only then ask sympy, in a killable worker."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rewards import worker_process
from rewards.errors import Failure
from rewards.math.cleaning import clean
from rewards.math.extraction import ANYWHERE, SEVERAL, SeveralAnswersError, extract
from rewards.math.pair import Pair, Verdict
from rewards.math.quick import quick_verdict
from rewards.types import Sample, Score, timed_out
from rewards.workers import Pool, default_workers

MAX_ANSWER_CHARS = 1000
MIN_COPIED_CHARS = 3
MEMORY_MB = 2048
"""Of a comparison's process: what outgrows it fails alone."""
TIMED_OUT = "timed out"
BACKENDS = ("own", "math-verify")


@dataclass(frozen=True)
class MathAnswer:
    r"""1.0 when the completion's answer equals the key, else 0.0 with a reason; never evaluates text as Python.

    The answer is what stands inside the last `<tag>`, else the last `\boxed{}`, else what follows the last marker.
    A key may be an integer, a float or LaTeX, boxed or not. A comparison that overruns its time or its memory scores
    0: the completion chose it. A key that is no mathematics to us, and is not repeated word by word, is the data's
    failure, and a process that dies of anything else the machine's.

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
    backend: str = "own"
    """Who judges what is no plain number: we, or the package `math-verify` in the same worker."""

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
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}")
        if self.backend == "math-verify" and importlib.util.find_spec("math_verify") is None:
            raise ValueError("backend 'math-verify' needs a package: pip install 'textenv[math-verify]'")
        if any(len(choice) != 1 or not choice.isalpha() for choice in self.choices):
            raise ValueError(f"choices must be letters, got {self.choices!r}")

    def __call__(self, completion: str, answer: int | float | str, prompt: str = "") -> Score:
        """Raises `ValueError` where the key cannot be judged by, or the comparison's process died of no limit of its
        own. `prompt`: a formula of it is no answer to it."""
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
            verdict = verdict or quick_verdict(key, text, choices=self.choices, decimals=self.decimals)
            if verdict is None:
                pairs[index] = Pair(key, text, self.decimals, self.inequalities, _is_copied(text, prompt))
            found.append(text)
            verdicts.append(verdict)
        judged = _judged(list(pairs.values()), self.timeout_seconds, self.backend)
        for index, verdict in zip(pairs, judged, strict=True):
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
    return Score(float(right), info={"reason": reason, "extracted": text[:200], **timed_out(reason == TIMED_OUT)})


def _judge(backend: str) -> Callable[[Pair], Verdict]:
    """Who judges; sympy is imported only here."""
    if backend == "own":
        from rewards.math.equivalence import judge

        return judge
    from rewards.math.math_verify import judge_with_math_verify

    return judge_with_math_verify


@functools.cache
def _pool(backend: str) -> Pool:
    return Pool({"math": _judge(backend)}, workers=default_workers(), memory_mb=MEMORY_MB)


def _judged(pairs: Sequence[Pair], timeout_seconds: float, backend: str) -> list[Verdict]:
    if not pairs:
        return []
    if worker_process.inside_worker:
        return [_judge(backend)(pair) for pair in pairs]
    answers = _pool(backend).run("math", pairs, timeout_seconds=timeout_seconds)
    return [_verdict_of(answer) for answer in answers]


def _verdict_of(answer: Any) -> Verdict:
    """What overruns its own limits does so by the answer's text; how else a comparison fails is not known."""
    if not isinstance(answer, Failure):
        return answer
    if answer.timed_out or answer.out_of_memory:
        return False, TIMED_OUT if answer.timed_out else "out of memory"
    return None, f"the comparison failed: {answer.reason}"
