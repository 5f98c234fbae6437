"""Rule rewards as in DeepSeek-R1 (arXiv 2501.12948, section 2.2.2), joined in one number: form and value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.errors import Failure
from rewards.format import TagFormat
from rewards.math.answer import MathAnswer
from rewards.types import Sample, Score


@dataclass(frozen=True)
class PartialCredit:
    """1.0 when the answer is right, `form_credit` when only the form is, 0.0 otherwise.

    >>> credit = PartialCredit()
    >>> [credit(completion=f"<think>6 * 7</think><answer>{n}</answer>", answer=42).value for n in (42, 41)]
    [1.0, 0.5]
    """

    execution = "inline"  # its parts are bounded, or bound themselves

    form: TagFormat = field(default_factory=TagFormat)
    value: MathAnswer = field(default_factory=lambda: MathAnswer(tag="answer"))
    form_credit: float = 0.5

    def __call__(self, completion: str, answer: int | float | str) -> Score:
        return self._joined(self.form(completion), self.value(completion, answer))

    def score_batch(self, samples: Sequence[Sample]) -> list[Score | Failure]:
        """One score per sample."""
        values: list[Any] = self.value.score_batch(samples)
        return [
            value if isinstance(value, Failure) else self._joined(self.form(sample.completion), value)
            for sample, value in zip(samples, values, strict=True)
        ]

    def _joined(self, form: Score, value: Score) -> Score:
        reason = value.info["reason"] if form.value else f"{value.info['reason']}; {form.info['reason']}"
        return Score(
            1.0 if value.value else self.form_credit * form.value,
            metrics={"form": form.value, "right": value.value},
            info={**value.info, "reason": reason},
        )
