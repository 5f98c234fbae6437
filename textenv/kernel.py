"""The batched transition: append, stop, decode what ended, answer or score it. No Gymnasium in it.

`advance` feeds each row its columns `first <= column < lengths` in one go and stops at the row's first end, of a turn
or of the episode; a plain step is the same call with one column. Python runs per row only where a turn or an episode
starts or ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rewards.errors import RewardError
from rewards.scoring import Scorer, Verdict
from rewards.types import Sample
from textenv.conversation import Converses, Dialog, Reply
from textenv.episodes import Episode
from textenv.stopping import StopMatcher, StopSpec
from textenv.tokenizer import Tokenizer
from textenv.types import FinishReason

PAD, PROMPT, POLICY, INJECTED = range(4)
"""Values of `segment`."""


class Advance(NamedTuple):
    """What one call did to each row."""

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    consumed: np.ndarray


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished episode, for logs and viewers."""

    sample: Sample
    verdict: Verdict
    episode_index: int


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
    ) -> None:
        room = 0 if converses is None else converses.task.max_injected_tokens
        self.num_rows, self.width = num_rows, max_prompt_tokens + stop_spec.max_new_tokens + room
        self.tokenizer, self.scorer, self.converses = tokenizer, scorer, converses
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
        self._episodes: list[Episode | None] = [None] * num_rows
        self._dialogs: list[Dialog | None] = [None] * num_rows
        self._last_ended: list[Ended | None] = [None] * num_rows

    def _empty_info(self) -> dict[str, np.ndarray]:
        numbers = ("prompt_index", "group_id", "episode_index", "finish_reason", "num_injected")
        info: dict[str, np.ndarray] = {name: np.zeros(self.num_rows, dtype=np.int64) for name in numbers}
        info["valid"] = np.zeros(self.num_rows, dtype=np.bool_)
        return info | {f"reward/{name}": np.zeros(self.num_rows) for name in self.scorer.names}

    def start(self, rows: Sequence[int], episodes: Sequence[Episode | None]) -> None:
        """Begin an episode in each row; None makes the row idle: nothing in it, and no step moves it."""
        index = np.asarray(rows, dtype=np.int64)
        self.tokens[index], self.segment[index] = self.tokenizer.pad_id, PAD
        self.length[index] = self.prompt_length[index] = self.remaining[index] = 0
        self.running[index] = self.ended[index] = False
        for name, values in self.info.items():
            values[index] = -1 if name in ("prompt_index", "group_id", "episode_index") else 0
        for row, episode in zip(rows, episodes, strict=True):
            self._episodes[row], self._dialogs[row] = episode, None
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
        if self.converses is not None:
            self._dialogs[row] = Dialog.begin(self.converses, episode.prompt.problem)

    def advance(self, actions: np.ndarray, first: np.ndarray, lengths: np.ndarray) -> Advance:
        """Feed row i the tokens `actions[i, first[i]:lengths[i]]` up to its first end; rows not running take none."""
        last = np.where(self.running, np.clip(lengths, first, first + self.remaining), first)
        columns = np.arange(actions.shape[1])
        fed = (columns >= first[:, None]) & (columns < last[:, None])
        reason = np.zeros(self.num_rows, dtype=np.int64)
        # What stands outside `fed` was not checked to be a token, hence "clip".
        ends = self._is_end.take(actions, mode="clip") & fed
        if ends.any():
            rows = np.flatnonzero(ends.any(1))
            last[rows], reason[rows] = ends[rows].argmax(1) + 1, FinishReason.EOS
            fed &= columns < last[:, None]
        self._write(fed, first, actions[fed], POLICY)
        if not self._stops.empty:
            self._stop(actions, fed, first, last, reason)
        consumed = last - first
        self.info["num_injected"][consumed > 0] = 0
        self.length += consumed
        self.remaining -= consumed
        reason[self.running & (self.remaining == 0) & (reason == 0)] = FinishReason.BUDGET
        return self._settle(reason, consumed, first, len(columns))

    def _write(self, where: np.ndarray, first: np.ndarray, tokens: np.ndarray | int, segment: int) -> None:
        """Put tokens at the places that the columns in `where` have in their rows."""
        starts = np.arange(self.num_rows) * self.width + self.length - first
        places = (starts[:, None] + np.arange(where.shape[1]))[where]
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
        last[rows], reason[rows] = cols[found][places] + 1, FinishReason.STOP
        behind = fed & (np.arange(fed.shape[1]) >= last[:, None])
        self._write(behind, first, self.tokenizer.pad_id, PAD)

    def _stop_is_complete(self, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Whether the turn, cut at this length, holds a stop string."""
        starts = self.turn_start[rows]
        written = [self.tokens[row, start:end] for row, start, end in zip(rows, starts, lengths, strict=True)]
        return np.array(self._stops.matches(written), dtype=np.bool_)

    def _settle(self, reason: np.ndarray, consumed: np.ndarray, first: np.ndarray, num_columns: int) -> Advance:
        """Answer the turns and mark the episodes that ended, and pay both in the column of their last token."""
        rewards = np.zeros((self.num_rows, num_columns))
        last = first + consumed - 1
        if self.converses is not None and reason.any():
            rows = np.flatnonzero(reason)
            self.info["finish_reason"][rows] = reason[rows]
            rewards[rows, last[rows]] = self._converse(rows, reason)
            self.info["finish_reason"][rows] = reason[rows]
        ended = reason != FinishReason.RUNNING
        if ended.any():
            rows = np.flatnonzero(ended)
            self.running[rows], self.ended[rows] = False, True
            self.info["finish_reason"][rows] = reason[rows]
            rewards[rows, last[rows]] += self._score(rows)
        truncated = reason == FinishReason.CONTEXT
        if not self.budget_terminates:
            truncated |= reason == FinishReason.BUDGET
        return Advance(rewards, ended & ~truncated, truncated, consumed)

    def _converse(self, rows: np.ndarray, reason: np.ndarray) -> list[float]:
        """Let the other side reply to the turns that ended; `reason` becomes RUNNING where it goes on. Returns what
        the turns are paid."""
        paid = []
        for row, turn in zip(rows.tolist(), self._turns(rows.tolist()), strict=True):
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

    def _score(self, rows: np.ndarray) -> list[float]:
        """What the ended rows are paid: one call to the tokenizer and one to the scorer for all of them."""
        samples = self._samples(rows.tolist())
        verdicts = self.scorer.score(samples)
        pay = [total(verdict) for verdict in verdicts]
        for k, (row, sample, verdict) in enumerate(zip(rows.tolist(), samples, verdicts, strict=True)):
            dialog = self._dialogs[row]
            if dialog is not None:
                verdict = self._with_turns(verdict, dialog)
                pay[k] = total(verdict) - dialog.paid
            self._last_ended[row] = Ended(sample, verdict, int(self.info["episode_index"][row]))
            self.info["valid"][row] = verdict.valid
            for name, score in verdict.parts.items():
                self.info[f"reward/{name}"][row] = float(score)
        return pay

    def _with_turns(self, verdict: Verdict, dialog: Dialog) -> Verdict:
        """The verdict with what the turns were paid; where the other side failed, what `on_error` says."""
        if not dialog.failure:
            return replace(verdict, value=verdict.value + dialog.paid)
        if self.scorer.on_error == "raise":
            raise RewardError(dialog.failure)
        if self.scorer.on_error == "invalid":
            return Verdict(0.0, verdict.parts, valid=False, reason=dialog.failure)
        return Verdict(float(self.scorer.on_error), verdict.parts, reason=dialog.failure)

    def _samples(self, rows: list[int]) -> list[Sample]:
        samples = []
        for row, completion in zip(rows, self.completions(rows), strict=True):
            episode, dialog = self._episodes[row], self._dialogs[row]
            assert episode is not None
            samples.append(
                Sample(
                    prompt=episode.prompt.text,
                    completion=completion,
                    messages=episode.prompt.messages + (() if dialog is None else tuple(dialog.messages)),
                    finish_reason=FinishReason(int(self.info["finish_reason"][row])).name.lower(),
                    row=episode.prompt.row,
                    group_id=episode.group_id,
                    completion_ids=tuple(self._written(row).tolist()),
                )
            )
        return samples

    def _written(self, row: int) -> np.ndarray:
        """The policy's tokens."""
        return self.tokens[row, self.segment[row] == POLICY]

    def _turns(self, rows: list[int]) -> list[str]:
        """The present turn of each row, without its end token, through its stop string."""
        spans = [self.tokens[row, self.turn_start[row] : self.length[row]] for row in rows]
        return self._texts(rows, spans, include_stop=True)

    def completions(self, rows: Sequence[int]) -> list[str]:
        """What the policy wrote so far in each row, without the end token and (unless included) the stop string; the
        turns of a conversation one under the other."""
        dialogs = [self._dialogs[row] for row in rows]
        spans = [self.tokens[row, self.turn_start[row] : self.length[row]] for row in rows]
        texts = self._texts(rows, spans, include_stop=self._include_stop)
        return [
            text if dialog is None else "\n".join([*dialog.said, *([] if dialog.over or not text else [text])])
            for dialog, text in zip(dialogs, texts, strict=True)
        ]

    def _texts(self, rows: Sequence[int], spans: Sequence[np.ndarray], *, include_stop: bool) -> list[str]:
        reasons = self.info["finish_reason"]
        ids = [
            span[: -1 if reasons[row] == FinishReason.EOS else None].tolist()
            for row, span in zip(rows, spans, strict=True)
        ]
        return [
            self._stops.cut(text, include_stop=include_stop) if reasons[row] == FinishReason.STOP else text
            for row, text in zip(rows, self.tokenizer.decode_batch(ids), strict=True)
        ]

    def parts(self, row: int) -> list[tuple[int, str]]:
        """What stands behind the prompt, for people: segment and text of each stretch of one kind."""
        inside = slice(int(self.prompt_length[row]), int(self.length[row]))
        tokens, segment = self.tokens[row, inside], self.segment[row, inside]
        cuts = np.flatnonzero(np.diff(segment)) + 1
        stretches = [part for part in np.split(np.arange(len(tokens)), cuts) if len(part)]
        texts = self.tokenizer.decode_batch([tokens[part].tolist() for part in stretches])
        return [(int(segment[part[0]]), text) for part, text in zip(stretches, texts, strict=True)]

    def prompt_text(self, row: int) -> str:
        """The prompt of a row's present episode; empty for an idle row."""
        episode = self._episodes[row]
        return "" if episode is None else episode.prompt.text

    def last_ended(self, row: int) -> Ended:
        """The row's last finished episode; `ValueError` when there was none yet."""
        ended = self._last_ended[row]
        if ended is None:
            raise ValueError(f"rows must have finished an episode, row {row} has not")
        return ended

    def total_reward(self, row: int) -> float:
        """What the row's last finished episode was paid."""
        return total(self.last_ended(row).verdict)

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


def total(verdict: Verdict) -> float:
    """The value and all its spans, as `step` pays it on the last token."""
    return verdict.value + sum(reward for _, _, reward in verdict.spans)
