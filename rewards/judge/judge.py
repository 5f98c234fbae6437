"""A judge as a batched reward: a rubric that asks and reads, a backend that answers."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from rewards.calling import SAMPLE_FIELDS
from rewards.errors import Failure
from rewards.judge.reply import Reply
from rewards.judge.rubric import Rubric
from rewards.types import Message, Sample, Score

_COUNTING = threading.Lock()


class Backend(Protocol):
    """What answers: `ChatEndpoint`, `LocalModel`, or yours."""

    async def ask(self, conversations: Sequence[Sequence[Message]]) -> list[Reply]:
        """One reply a conversation, in order."""


class LLMJudge:
    """Scores completions by what a language model says of them.

    An endpoint that fails, and an answer without a verdict, are failures of the grader and never charged to the policy;
    an empty or overlong completion scores `rubric.low` without being shown to the judge. A `Scorer` bounds the whole
    batch by the part's `timeout_seconds`: give a judge more than the ten seconds of other parts.

    >>> from rewards.judge import ChatEndpoint
    >>> LLMJudge(ChatEndpoint(model="qwen")).rubric.columns
    ()
    """

    def __init__(self, backend: Backend, rubric: Rubric | None = None) -> None:
        """Raises `ValueError` for a backend that cannot `ask`."""
        if not inspect.iscoroutinefunction(getattr(backend, "ask", None)):
            raise ValueError(f"backend must have a coroutine ask(conversations), got {backend!r:.80}")
        self.backend = backend
        self.rubric = rubric or Rubric()
        own = ["finish_reason"] if "{finish_reason" in self.rubric.template else []
        names = ["prompt", "completion", *own, *self.rubric.columns]
        keyword = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(name, keyword) for name in names])
        """What a task must provide is known when the environment is built."""
        self._counters = dict.fromkeys(
            ("samples", "unasked", "failures", "unreadable", "requests", "retries", "tokens_in", "tokens_out", "cost"),
            0.0,
        )

    def counters(self) -> dict[str, float]:
        """Since construction: samples, those not shown to the judge, failures of the backend, answers without a
        verdict, requests and how many of them were retries, tokens read and written, cost."""
        with _COUNTING:
            return dict(self._counters)

    async def __call__(self, **fields: Any) -> Score:
        """The score of one sample, given by name. Raises `RuntimeError` where the judge failed."""
        known = {name: value for name, value in fields.items() if name in SAMPLE_FIELDS}
        row = {name: value for name, value in fields.items() if name not in SAMPLE_FIELDS}
        score = (await self.score_batch([Sample(**known, row=row)]))[0]
        if isinstance(score, Failure):
            raise RuntimeError(score.reason)
        return score

    async def score_batch(self, samples: Sequence[Sample]) -> list[Score | Failure]:
        """One score a sample, or the failure of its judge.

        Metrics of a score: `requests`, `retries`, `tokens_in`, `tokens_out`, `cost` of its question, and
        `failed_share` of the batch it was in.
        """
        questions = [self._question(sample) for sample in samples]
        replies = await self.backend.ask([question for question in questions if isinstance(question, list)])
        values = [self._value(reply) for reply in replies]
        self._count(questions, replies, values)
        failures = sum(isinstance(outcome, Failure) for outcome in (*questions, *values))
        failed_share = failures / len(samples) if samples else 0.0
        judged = iter(zip(replies, values, strict=True))
        return [
            _score(*next(judged), failed_share) if isinstance(question, list) else question for question in questions
        ]

    def _question(self, sample: Sample) -> list[Message] | Score | Failure:
        """The conversation that asks for a verdict, or what is known without one."""
        if reason := self.rubric.unasked(sample):
            return Score(self.rubric.low, info={"reason": reason})
        try:
            return self.rubric.messages(sample)
        except KeyError as error:
            return Failure(f"the row has no column {error}, it has {sorted(sample.row)}")

    def _value(self, reply: Reply) -> float | Failure:
        if reply.failure is not None:
            return reply.failure
        try:
            return self.rubric.read(reply.text)
        except ValueError as error:
            told = f"{reply.text[:80]!r} ... {reply.text[-80:]!r}" if len(reply.text) > 160 else repr(reply.text)
            return Failure(f"the judge's answer holds no verdict: {error}; it is {told}")

    def _count(self, questions: Sequence[object], replies: Sequence[Reply], values: Sequence[object]) -> None:
        unanswered = sum(reply.failure is not None for reply in replies)
        found = {
            "samples": len(questions),
            "unasked": len(questions) - len(replies),
            "failures": unanswered,
            "unreadable": sum(isinstance(value, Failure) for value in values) - unanswered,
            "requests": sum(reply.requests for reply in replies),
            "retries": sum(max(reply.requests - 1, 0) for reply in replies),
            "tokens_in": sum(reply.tokens_in for reply in replies),
            "tokens_out": sum(reply.tokens_out for reply in replies),
            "cost": sum(reply.cost for reply in replies),
        }
        with _COUNTING:
            for name, number in found.items():
                self._counters[name] += number


def _score(reply: Reply, value: float | Failure, failed_share: float) -> Score | Failure:
    if isinstance(value, Failure):
        return value
    metrics = {
        "requests": float(reply.requests),
        "retries": float(max(reply.requests - 1, 0)),
        "tokens_in": float(reply.tokens_in),
        "tokens_out": float(reply.tokens_out),
        "cost": reply.cost,
        "failed_share": failed_share,
    }
    return Score(value, metrics=metrics, info={"reason": reply.text.strip()[-300:]})
