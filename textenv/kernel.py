"""The batched transition: append, stop, decode what ended, answer or score it. No Gymnasium in it.

`advance` feeds each row its columns `first <= column < lengths` in one go and stops at the row's first end, of a turn
or of the episode; a plain step is the same call with one column. Python runs per row only where a turn or an episode
starts or ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rewards.scoring import Scorer
from rewards.types import Sample
from textenv.conversation import Converses, Dialog, Reply
from textenv.deferred import DeferredScores, Job
from textenv.ended import Due, Ended, Scored, settled, total
from textenv.episodes import Episode
from textenv.stopping import StopMatcher, StopSpec
from textenv.tokenizer import Tokenizer
from textenv.types import FinishReason

PAD, PROMPT, POLICY, INJECTED = range(4)
"""Values of `segment`."""
REASON_NAMES = tuple(reason.name.lower() for reason in FinishReason)


class Advance(NamedTuple):
    """What one call did to each row."""

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    consumed: np.ndarray


class Kernel:
    """N rows of tokens and how far each has come."""

    def __init__(
        self,
        num_rows: int,
        *,
        tokenizer: Tokenizer,
        stop_spec: StopSpec,
        scorer: Scorer,
        max_prompt_tokens: int,
        include_stop: bool,
        budget_terminates: bool,
        converses: Converses | None = None,
        deferred: bool = False,
    ) -> None:
        room = 0 if converses is None else converses.task.max_injected_tokens
        self.num_rows, self.width = num_rows, max_prompt_tokens + stop_spec.max_new_tokens + room
        self.tokenizer, self.scorer, self.converses = tokenizer, scorer, converses
        self._deferred = DeferredScores(scorer) if deferred else None
        self.budget_terminates = budget_terminates
        self._include_stop = include_stop
        self._turn_ends = () if converses is None else tuple(converses.task.turn_ends)
        self._stops = StopMatcher((*stop_spec.stop_strings, *self._turn_ends), tokenizer)
        self._is_end = np.zeros(len(tokenizer), dtype=np.bool_)
        self._is_end[list(stop_spec.end_ids)] = True
        self.tokens = np.full((num_rows, self.width), tokenizer.pad_id, dtype=np.int32)
        self.segment = np.zeros((num_rows, self.width), dtype=np.uint8)
        self.length = np.zeros(num_rows, dtype=np.int64)
        self.prompt_length = np.zeros(num_rows, dtype=np.int64)
        self.remaining = np.zeros(num_rows, dtype=np.int64)
        self.turn_start = np.zeros(num_rows, dtype=np.int64)
        """Where the policy's present turn begins: behind the prompt, or behind the last reply."""
        self.running = np.zeros(num_rows, dtype=np.bool_)
        self.ended = np.zeros(num_rows, dtype=np.bool_)
        """Rows whose episode is over and that wait for another."""
        self.info: dict[str, np.ndarray] = self._empty_info()
        self._broken = np.zeros(num_rows, dtype=np.bool_)
        """Rows whose episode could not be begun: the first token ends it."""
        self._row_start = np.arange(num_rows) * self.width
        self._episodes: list[Episode | None] = [None] * num_rows
        self._dialogs: list[Dialog | None] = [None] * num_rows
        self._last: list[Ended | tuple[Job, int] | None] = [None] * num_rows
        """The row's last finished episode; where its score is deferred, its place in what is to be scored."""

    def _empty_info(self) -> dict[str, np.ndarray]:
        numbers = ("prompt_index", "group_id", "episode_index", "finish_reason", "num_injected")
        info: dict[str, np.ndarray] = {name: np.zeros(self.num_rows, dtype=np.int64) for name in numbers}
        info["valid"] = np.zeros(self.num_rows, dtype=np.bool_)
        if self._deferred is not None:
            info["reward_pending"] = np.zeros(self.num_rows, dtype=np.bool_)
        return info | {f"reward/{name}": np.zeros(self.num_rows) for name in self.scorer.names}

    def start(self, rows: Sequence[int], episodes: Sequence[Episode | None]) -> None:
        """Begin an episode in each row; None makes the row idle: nothing in it, and no step moves it."""
        index = np.asarray(rows, dtype=np.int64)
        self.tokens[index], self.segment[index] = self.tokenizer.pad_id, PAD
        self.length[index] = self.prompt_length[index] = self.remaining[index] = 0
        self.running[index] = self.ended[index] = self._broken[index] = False
        for name, values in self.info.items():
            values[index] = -1 if name in ("prompt_index", "group_id", "episode_index") else 0
        for row, episode in zip(rows, episodes, strict=True):
            self._episodes[row] = self._dialogs[row] = None
            if episode is not None:
                self._begin(row, episode)

    def _begin(self, row: int, episode: Episode) -> None:
        size = len(episode.prompt.ids)
        self.tokens[row, :size], self.segment[row, :size] = episode.prompt.ids, PROMPT
        self.length[row] = self.prompt_length[row] = self.turn_start[row] = size
        self.remaining[row] = episode.max_new_tokens
        self.running[row] = True
        self.info["prompt_index"][row] = episode.prompt_index
        self.info["group_id"][row] = episode.group_id
        self.info["episode_index"][row] = episode.episode_index
        self.info["valid"][row] = True
        if self.converses is not None and not episode.failure:
            try:
                self._dialogs[row] = Dialog(self.converses.task.converse(episode.prompt.problem))
            except Exception as error:  # noqa: BLE001  (a user's code may raise anything; it ends its own row)
                failure = f"the conversation could not begin: {type(error).__name__}: {error}"
                episode = replace(episode, failure=failure)
        self._episodes[row] = episode
        if episode.failure:
            self._broken[row], self.remaining[row] = True, 1

    def _failure(self, row: int) -> str:
        """Why the task or the other side failed in this row; empty where it did not."""
        dialog = self._dialogs[row]
        return self._episode(row).failure if dialog is None else dialog.failure

    def advance(self, actions: np.ndarray, first: np.ndarray, lengths: np.ndarray) -> Advance:
        """Feed row i the tokens `actions[i, first[i]:lengths[i]]` up to its first end; rows not running take none."""
        last = np.where(self.running, np.minimum(lengths, first + self.remaining), first)
        reason = np.zeros(self.num_rows, dtype=np.int64)
        fed = between(first, last, actions.shape[1])
        # What stands outside `fed` was not checked to be a token, hence "clip".
        ends = self._is_end.take(actions, mode="clip") & fed
        rows = ends.any(1).nonzero()[0]
        if rows.size:
            last[rows], reason[rows] = ends[rows].argmax(1) + 1, FinishReason.EOS
            fed = between(first, last, actions.shape[1])
        self._write(self.length, last - first, actions[fed], POLICY)
        if not self._stops.empty:
            self._stop(actions, fed, first, last, reason)
        consumed = last - first
        if self.converses is not None:
            self.info["num_injected"][consumed > 0] = 0
        self.length += consumed
        self.remaining -= consumed
        reason[self.running & (self.remaining == 0) & (reason == 0)] = FinishReason.BUDGET
        reason[self._broken & (reason != 0)] = FinishReason.TASK
        return self._settle(reason, consumed, first, actions.shape[1])

    def _write(self, start: np.ndarray, sizes: np.ndarray, tokens: np.ndarray | int, segment: int) -> None:
        """Put `sizes[i]` tokens into row i from column `start[i]` on; `tokens` are those of all rows in order."""
        ends = np.cumsum(sizes)
        places = np.repeat(self._row_start + start - (ends - sizes), sizes)
        places += np.arange(ends[-1])
        self.tokens.reshape(-1)[places] = tokens
        self.segment.reshape(-1)[places] = segment

    def _stop(
        self, actions: np.ndarray, fed: np.ndarray, first: np.ndarray, last: np.ndarray, reason: np.ndarray
    ) -> None:
        """Shorten `last` of rows in which a stop string was completed, say so in `reason`, and take back what was
        written behind it."""
        rows, cols = np.nonzero(self._stops.may_complete.take(actions, mode="clip") & fed)
        if not rows.size:
            return
        found = self._stop_is_complete(rows, self.length[rows] + cols + 1 - first[rows])
        rows, places = np.unique(rows[found], return_index=True)
        if not rows.size:
            return
        written = last.copy()
        last[rows], reason[rows] = cols[found][places] + 1, FinishReason.STOP
        self._write(self.length + last - first, written - last, self.tokenizer.pad_id, PAD)

    def _stop_is_complete(self, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Whether the turn, cut at this length, holds a stop string."""
        starts = self.turn_start[rows]
        written = [self.tokens[row, start:end] for row, start, end in zip(rows, starts, lengths, strict=True)]
        return np.array(self._stops.matches(written), dtype=np.bool_)

    def _settle(self, reason: np.ndarray, consumed: np.ndarray, first: np.ndarray, num_columns: int) -> Advance:
        """Answer the turns and mark the episodes that ended, and pay both in the column of their last token."""
        rewards = np.zeros((self.num_rows, num_columns))
        last = first + consumed - 1
        if self.converses is not None:
            rows = np.flatnonzero((reason != 0) & ~self._broken)
            self.info["finish_reason"][rows] = reason[rows]
            rewards[rows, last[rows]] = self._converse(rows.tolist(), reason)
            self.info["finish_reason"][rows] = reason[rows]
        rows = reason.nonzero()[0]
        if rows.size:
            self.running[rows], self.ended[rows] = False, True
            self.info["finish_reason"][rows] = reason[rows]
            rewards[rows, last[rows]] = self._pay(rows, rewards[rows, last[rows]])
        truncated = reason == FinishReason.CONTEXT
        if not self.budget_terminates:
            truncated |= reason == FinishReason.BUDGET
        return Advance(rewards, (reason != FinishReason.RUNNING) & ~truncated, truncated, consumed)

    def _converse(self, rows: list[int], reason: np.ndarray) -> list[float]:
        """Let the other side reply to the turns that ended; `reason` becomes RUNNING where it goes on. Returns what
        the turns are paid."""
        paid = []
        for row, turn in zip(rows, self._turns(rows) if rows else [], strict=True):
            dialog = self._dialogs[row]
            assert dialog is not None
            why = int(reason[row])
            in_message = why == FinishReason.STOP
            of_turn = why == FinishReason.EOS or (in_message and turn.endswith(self._turn_ends))
            if in_message and not of_turn:
                turn = self._stops.cut(turn, include_stop=self._include_stop)
            reply: Reply | None = None
            if of_turn:
                reply = dialog.turn(turn)
            else:
                dialog.last_words(turn)
            paid.append(0.0 if reply is None else reply.reward)
            if reply is not None:
                reason[row] = FinishReason.TASK if reply.done else self._inject(row, dialog, reply, in_message)
                dialog.over = bool(reason[row])
        return paid

    def _inject(self, row: int, dialog: Dialog, reply: Reply, in_message: bool) -> FinishReason:
        """Append a reply to the row, unless there is no budget for an answer or no room for the reply."""
        assert self.converses is not None
        if self.remaining[row] == 0:
            return FinishReason.BUDGET
        try:
            ids = self.converses.tokens(reply, in_message=in_message)
        except Exception as error:  # noqa: BLE001  (a template or a tokenizer that refuses the reply ends its own row)
            dialog.failure = f"the reply could not be encoded: {type(error).__name__}: {error}"
            return FinishReason.TASK
        if dialog.num_injected + len(ids) > self.converses.task.max_injected_tokens:
            return FinishReason.CONTEXT
        start = int(self.length[row])
        end = start + len(ids)
        self.tokens[row, start:end], self.segment[row, start:end] = ids, INJECTED
        self.length[row] = self.turn_start[row] = end
        self.info["num_injected"][row] = len(ids)
        dialog.hear(reply, len(ids))
        return FinishReason.RUNNING

    def _pay(self, ended: np.ndarray, last_turn: np.ndarray) -> list[float] | float:
        """What the last tokens of the ended rows are paid: one call to the tokenizer and one to the scorer for all of
        them. Nothing yet where the scores are deferred: `scores` brings it, that of the last turn included."""
        due = self._due(ended.tolist(), last_turn)
        if self._deferred is not None:
            self.info["reward_pending"][ended] = True
            job = self._deferred.submit(due)
            for place, row in enumerate(due.rows):
                self._last[row] = job, place
            return 0.0
        done, rewards = settled(due, self.scorer.score(due.samples, failures=due.failures))
        self.info["valid"][ended] = [one.verdict.valid for one in done]
        for name in self.scorer.names:
            scores = [one.verdict.parts.get(name) for one in done]
            self.info[f"reward/{name}"][ended] = [0.0 if score is None else float(score) for score in scores]
        for row, one in zip(due.rows, done, strict=True):
            self._last[row] = one
        return rewards

    def _due(self, rows: list[int], last_turn: np.ndarray) -> Due:
        """The episodes that ended in these rows, without a reference to anything that the next ones change."""
        samples, episodes = self._samples(rows), self.info["episode_index"][rows].tolist()
        failures: dict[int, str] = {}
        if self.converses is not None or self._broken.any():
            failures = {place: failure for place, row in enumerate(rows) if (failure := self._failure(row))}
        if self.converses is None:
            return Due(rows, episodes, samples, failures, [], [])
        return Due(rows, episodes, samples, failures, [self._paid(row) for row in rows], last_turn.tolist())

    def _paid(self, row: int) -> float:
        """What the turns of the row's episode were paid as they came."""
        dialog = self._dialogs[row]
        return 0.0 if dialog is None else dialog.paid

    def scores(self, *, wait: bool) -> list[Scored]:
        """Deferred scores not delivered before, in the order in which the episodes ended; without `wait` only those
        that are there. Raises `RewardError` as `Scorer.score`, and `ValueError` where scores are not deferred."""
        if self._deferred is None:
            raise ValueError("scoring must be deferred for scores(), got 'immediate': step() has paid, see scored()")
        found: list[Scored] = []
        for job in self._deferred.take(wait=wait):
            found += map(Scored, job.due.rows, *job.settled)
        return found

    def forget_scores(self) -> None:
        """What was not delivered will not be."""
        if self._deferred is not None:
            self._deferred.forget()

    def close(self) -> None:
        """Break off what is being scored and end the reward's workers."""
        if self._deferred is not None:
            self._deferred.close()
        self.scorer.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._deferred is not None:
            self._deferred.settle()  # before the scorer is copied: its thread would change it meanwhile
        return self.__dict__

    def _episode(self, row: int) -> Episode:
        episode = self._episodes[row]
        assert episode is not None
        return episode

    def _samples(self, rows: list[int]) -> list[Sample]:
        reasons, spans = self.info["finish_reason"][rows].tolist(), self._spans(rows)
        if self.converses is None:
            ids = [span.copy() for span in spans]
        else:
            ids = [self.tokens[row, self.segment[row] == POLICY] for row in rows]
        texts = self._completions(rows, spans, reasons)
        samples = []
        for row, completion, reason, completion_ids in zip(rows, texts, reasons, ids, strict=True):
            episode, dialog = self._episode(row), self._dialogs[row]
            prompt = episode.prompt
            samples.append(
                Sample(
                    prompt=prompt.text,
                    completion=completion,
                    messages=prompt.messages if dialog is None else (*prompt.messages, *dialog.messages),
                    finish_reason=REASON_NAMES[reason],
                    row=prompt.problem.row,
                    group_id=episode.group_id,
                    completion_ids=completion_ids,
                )
            )
        return samples

    def completions(self, rows: list[int]) -> list[str]:
        """What the policy wrote so far in each row, without the end token and (unless included) the stop string; the
        turns of a conversation one under the other."""
        return self._completions(rows, self._spans(rows), self.info["finish_reason"][rows].tolist())

    def _completions(self, rows: list[int], spans: list[np.ndarray], reasons: list[int]) -> list[str]:
        texts = self._texts(spans, reasons, include_stop=self._include_stop)
        if self.converses is None:
            return texts
        dialogs = [self._dialogs[row] for row in rows]
        return [
            text if dialog is None else "\n".join([*dialog.said, *([] if dialog.over or not text else [text])])
            for dialog, text in zip(dialogs, texts, strict=True)
        ]

    def _turns(self, rows: list[int]) -> list[str]:
        """The present turn of each row, without its end token, through its stop string."""
        return self._texts(self._spans(rows), self.info["finish_reason"][rows].tolist(), include_stop=True)

    def _spans(self, rows: list[int]) -> list[np.ndarray]:
        """The present turn's tokens, not copied."""
        starts, ends = self.turn_start[rows].tolist(), self.length[rows].tolist()
        return [self.tokens[row, start:end] for row, start, end in zip(rows, starts, ends, strict=True)]

    def _texts(self, spans: list[np.ndarray], reasons: list[int], *, include_stop: bool) -> list[str]:
        texts = self.tokenizer.decode_batch(
            [span[:-1] if reason == FinishReason.EOS else span for span, reason in zip(spans, reasons, strict=True)]
        )
        if FinishReason.STOP not in reasons:
            return texts
        return [
            self._stops.cut(text, include_stop=include_stop) if reason == FinishReason.STOP else text
            for reason, text in zip(reasons, texts, strict=True)
        ]

    def parts(self, row: int) -> list[tuple[int, str]]:
        """What stands behind the prompt, for people: segment and text of each stretch of one kind."""
        inside = slice(int(self.prompt_length[row]), int(self.length[row]))
        tokens, segment = self.tokens[row, inside], self.segment[row, inside]
        cuts = np.flatnonzero(np.diff(segment)) + 1
        stretches = [part for part in np.split(np.arange(len(tokens)), cuts) if len(part)]
        texts = self.tokenizer.decode_batch([tokens[part] for part in stretches])
        return [(int(segment[part[0]]), text) for part, text in zip(stretches, texts, strict=True)]

    def prompt_text(self, row: int) -> str:
        """The prompt of a row's present episode; empty for an idle row."""
        episode = self._episodes[row]
        return "" if episode is None else episode.prompt.text

    def last_ended(self, row: int) -> Ended:
        """The row's last finished episode, waited for where its score is deferred; `ValueError` when there was none
        yet, and what `scores` would raise where it could not be scored."""
        last = self._last[row]
        if last is None:
            raise ValueError(f"rows must have finished an episode, row {row} has not")
        if isinstance(last, Ended):
            return last
        assert self._deferred is not None
        job, place = last
        return self._deferred.wait_for(job)[place]

    def outcome(self, row: int) -> str:
        """Why the row's episode ended and what it was paid, for people; empty while it goes on."""
        if not self.ended[row]:
            return ""
        reason = REASON_NAMES[self.info["finish_reason"][row]]
        return f"ended: {reason}, reward " + (
            "pending" if self._deferred is not None else f"{total(self.last_ended(row).verdict):g}"
        )

    def observe(self, *, copy: bool = True) -> dict[str, np.ndarray]:
        """The observation of all rows; `copy=False`: the kernel's own token arrays, which the next call changes."""
        return {
            "tokens": self.tokens.copy() if copy else self.tokens,
            "segment": self.segment.copy() if copy else self.segment,
            "length": self.length[:, None].astype(np.int32),
            "prompt_length": self.prompt_length[:, None].astype(np.int32),
            "remaining": self.remaining[:, None].astype(np.int32),
        }

    def infos(self, mask: np.ndarray | None = None, *, copy: bool = True) -> dict[str, np.ndarray]:
        """Infos of the rows in `mask` (None: all), zero elsewhere, with Gymnasium's `_key` masks."""
        infos: dict[str, np.ndarray] = {}
        everyone = np.ones(self.num_rows, dtype=np.bool_) if mask is None else mask
        for name, values in self.info.items():
            if mask is None:
                infos[name] = values.copy() if copy else values
            else:
                infos[name] = np.where(mask, values, 0).astype(values.dtype)
            infos[f"_{name}"] = everyone.copy() if copy else everyone
        return infos


def between(first: np.ndarray, last: np.ndarray, num_columns: int) -> np.ndarray:
    """(N, columns) bool: `first <= column < last`."""
    columns = np.arange(num_columns)
    inside = columns < last[:, None]
    return inside & (columns >= first[:, None]) if first.any() else inside
