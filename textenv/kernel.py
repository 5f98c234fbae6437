"""The batched transition: append, stop, decode what ended, score. No Gymnasium in it.

`advance` feeds each row its columns `first <= column < lengths` in one go and stops at the row's first end; a plain
step is the same call with one column. Python runs per row only where an episode starts or ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rewards.scoring import Scorer, Verdict
from rewards.types import Sample
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
    ) -> None:
        self.num_rows, self.width = num_rows, max_prompt_tokens + stop_spec.max_new_tokens
        self.tokenizer, self.scorer = tokenizer, scorer
        self.budget_terminates = budget_terminates
        self._include_stop = include_stop
        self._stops = StopMatcher(stop_spec.stop_strings, tokenizer)
        self._is_end = np.zeros(len(tokenizer), dtype=np.bool_)
        self._is_end[list(stop_spec.end_ids)] = True
        self.tokens = np.full((num_rows, self.width), tokenizer.pad_id, dtype=np.int32)
        self.segment = np.zeros((num_rows, self.width), dtype=np.uint8)
        self.length = np.zeros(num_rows, dtype=np.int64)
        self.prompt_length = np.zeros(num_rows, dtype=np.int64)
        self.remaining = np.zeros(num_rows, dtype=np.int64)
        self.running = np.zeros(num_rows, dtype=np.bool_)
        self.ended = np.zeros(num_rows, dtype=np.bool_)
        """Rows whose episode is over and that wait for another."""
        self.info: dict[str, np.ndarray] = self._empty_info()
        self._episodes: list[Episode | None] = [None] * num_rows
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
            self._episodes[row] = episode
            if episode is not None:
                self._begin(row, episode)

    def _begin(self, row: int, episode: Episode) -> None:
        size = len(episode.prompt.ids)
        self.tokens[row, :size], self.segment[row, :size] = episode.prompt.ids, PROMPT
        self.length[row] = self.prompt_length[row] = size
        self.remaining[row] = episode.max_new_tokens
        self.running[row] = True
        self.info["prompt_index"][row] = episode.prompt_index
        self.info["group_id"][row] = episode.group_id
        self.info["episode_index"][row] = episode.episode_index
        self.info["valid"][row] = True

    def advance(self, actions: np.ndarray, first: np.ndarray, lengths: np.ndarray) -> Advance:
        """Feed row i the tokens `actions[i, first[i]:lengths[i]]` up to its first end; rows not running take none."""
        last = np.where(self.running, np.clip(lengths, first, first + self.remaining), first)
        columns = np.arange(actions.shape[1])
        fed = (columns >= first[:, None]) & (columns < last[:, None])
        tokens = actions[fed]
        self._write(fed, first, tokens, POLICY)
        consumed, reason = last - first, np.zeros(self.num_rows, dtype=np.int64)
        if (ends := self._first_ends(tokens, fed, first)) is not None:
            rows, cols, reasons = ends
            consumed[rows], reason[rows] = cols + 1 - first[rows], reasons
            behind = fed & (columns >= (first + consumed)[:, None])
            self._write(behind, first, self.tokenizer.pad_id, PAD)
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

    def _first_ends(
        self, tokens: np.ndarray, fed: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Rows in which an end token or a stop string was fed, the first one's column, and which it was; None: none."""
        is_end = self._is_end[tokens]
        may_stop = self._stops.may_complete[tokens] if not self._stops.empty else is_end
        if not (is_end.any() or may_stop.any()):
            return None
        rows, cols = np.nonzero(fed)
        column = np.full(self.num_rows, fed.shape[1])
        reason = np.zeros(self.num_rows, dtype=np.int64)
        _note_first(column, reason, rows[is_end], cols[is_end], FinishReason.EOS)
        if not self._stops.empty:
            may_stop &= cols < column[rows]
            rows, cols = rows[may_stop], cols[may_stop]
            found = self._stop_is_complete(rows, self.length[rows] + cols + 1 - first[rows])
            _note_first(column, reason, rows[found], cols[found], FinishReason.STOP)
        ended = np.flatnonzero(reason)
        return ended, column[ended], reason[ended]

    def _stop_is_complete(self, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Whether the row, cut at this length, holds a stop string."""
        if not rows.size:
            return np.zeros(0, dtype=np.bool_)
        starts = self.prompt_length[rows]
        written = [self.tokens[row, start:end] for row, start, end in zip(rows, starts, lengths, strict=True)]
        return np.array(self._stops.matches(written), dtype=np.bool_)

    def _settle(self, reason: np.ndarray, consumed: np.ndarray, first: np.ndarray, num_columns: int) -> Advance:
        """Mark the rows that ended, and pay them in the column of their last token."""
        ended = reason != FinishReason.RUNNING
        rewards = np.zeros((self.num_rows, num_columns))
        if ended.any():
            rows = np.flatnonzero(ended)
            self.running[rows], self.ended[rows] = False, True
            self.info["finish_reason"][rows] = reason[rows]
            rewards[rows, (first + consumed - 1)[rows]] = self._score(rows)
        truncated = ended & (reason == FinishReason.BUDGET) & (not self.budget_terminates)
        return Advance(rewards, ended & ~truncated, truncated, consumed)

    def _score(self, rows: np.ndarray) -> list[float]:
        """What the ended rows are paid: one call to the tokenizer and one to the scorer for all of them."""
        samples = self._samples(rows.tolist())
        verdicts = self.scorer.score(samples)
        for row, sample, verdict in zip(rows.tolist(), samples, verdicts, strict=True):
            self._last_ended[row] = Ended(sample, verdict, int(self.info["episode_index"][row]))
            self.info["valid"][row] = verdict.valid
            for name, score in verdict.parts.items():
                self.info[f"reward/{name}"][row] = float(score)
        return [total(verdict) for verdict in verdicts]

    def _samples(self, rows: list[int]) -> list[Sample]:
        samples = []
        for row, completion in zip(rows, self.completions(rows), strict=True):
            episode = self._episodes[row]
            assert episode is not None
            samples.append(
                Sample(
                    prompt=episode.prompt.text,
                    completion=completion,
                    messages=episode.prompt.messages,
                    finish_reason=FinishReason(int(self.info["finish_reason"][row])).name.lower(),
                    row=episode.prompt.row,
                    group_id=episode.group_id,
                    completion_ids=tuple(self._written(row).tolist()),
                )
            )
        return samples

    def _written(self, row: int) -> np.ndarray:
        return self.tokens[row, self.prompt_length[row] : self.length[row]]

    def completions(self, rows: Sequence[int]) -> list[str]:
        """What the policy wrote so far in each row, without the end token and (unless included) the stop string."""
        reasons = self.info["finish_reason"]
        written = [self._written(row)[: -1 if reasons[row] == FinishReason.EOS else None].tolist() for row in rows]
        texts = self.tokenizer.decode_batch(written)
        return [
            self._stops.cut(text, include_stop=self._include_stop) if reasons[row] == FinishReason.STOP else text
            for row, text in zip(rows, texts, strict=True)
        ]

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

    def observe(self) -> dict[str, np.ndarray]:
        """The observation of all rows, in fresh arrays."""
        return {
            "tokens": self.tokens.copy(),
            "segment": self.segment.copy(),
            "length": self.length[:, None].astype(np.int32),
            "prompt_length": self.prompt_length[:, None].astype(np.int32),
            "remaining": self.remaining[:, None].astype(np.int32),
        }

    def infos(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Infos of the rows in `mask`, zero elsewhere, in fresh arrays and with Gymnasium's `_key` masks."""
        infos, everyone = {}, mask.all()
        for name, values in self.info.items():
            infos[name] = values.copy() if everyone else np.where(mask, values, 0).astype(values.dtype)
            infos[f"_{name}"] = mask.copy()
        return infos


def total(verdict: Verdict) -> float:
    """The value and all its spans, as `step` pays it on the last token."""
    return verdict.value + sum(reward for _, _, reward in verdict.spans)


def _note_first(column: np.ndarray, reason: np.ndarray, rows: np.ndarray, cols: np.ndarray, why: FinishReason) -> None:
    """Fill in the first of each row's columns, in place; `rows` are in order."""
    rows, places = np.unique(rows, return_index=True)
    column[rows], reason[rows] = cols[places], why
