"""Which problem a row gets next: a draw, an index, a prompt of the caller's, or the next entry of a queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenv.prompts import Prompt, PromptFormat
from textenv.tasks import problems_of
from textenv.types import Problem, Task, as_problem

SCALAR_OPTIONS = ("index", "prompt", "group_id", "split", "max_new_tokens")
VECTOR_OPTIONS = (*SCALAR_OPTIONS, "indices", "prompts", "group_ids", "reset_mask")
MAX_CACHED_PROMPTS = 16_384


@dataclass(frozen=True, slots=True)
class Episode:
    """What a row starts with."""

    prompt: Prompt
    prompt_index: int
    """The problem's place in its split; -1 for a prompt of the caller's."""
    group_id: int
    """-1: of no group."""
    episode_index: int
    """The queue position, or without a queue the row's own count since it was last seeded."""
    max_new_tokens: int
    failure: str = ""
    """Why the problem could not be shown: the prompt is a stand-in, and the first token ends the episode."""


@dataclass(frozen=True, slots=True)
class Queue:
    """K entries that rows take in order."""

    split: str | None
    """None: the entries are `problems` of the caller's."""
    problems: Sequence[Problem]
    indices: np.ndarray
    group_ids: np.ndarray
    max_new_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


class EpisodeSource:
    """Hands out episodes to N rows; the caller brings the random generators."""

    def __init__(self, task: Task, prompts: PromptFormat, *, split: str, max_new_tokens: int, num_rows: int) -> None:
        self.task, self.prompts, self.split = task, prompts, split
        self.max_new_tokens = max_new_tokens
        self._num_rows = num_rows
        self._splits: dict[str, Sequence[Problem]] = {}
        self._cache: dict[tuple[str, int], Prompt] = {}
        self._counts = [0] * num_rows
        self._queue: Queue | None = None
        self._position = 0

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split; `ValueError` when there are none."""
        if split not in self._splits:
            self._splits[split] = problems_of(self.task, split)
            if not len(self._splits[split]):
                raise ValueError(f"split must be one with problems in it, got {split!r} of task {self.task.name!r}")
        return self._splits[split]

    def position(self) -> tuple[Any, ...]:
        """How far the rows and the queue have come, for `go_back`."""
        return self._queue, self._position, list(self._counts)

    def go_back(self, position: tuple[Any, ...]) -> None:
        """Undo what was handed out since."""
        self._queue, self._position, self._counts = position

    def forget_counts(self, rows: Sequence[int]) -> None:
        """Rows that were seeded count their episodes from 0."""
        for row in rows:
            self._counts[row] = 0

    def start(
        self,
        rows: Sequence[int],
        options: Mapping[str, Any],
        generator: Callable[[int], np.random.Generator],
        *,
        queue_may_wait: bool,
    ) -> list[Episode | None]:
        """Episodes for the rows that a reset starts; None for rows that stay idle.

        Raises what the task raises for a problem that `options` name, for a row that is started now; a problem that
        fails when it is drawn, or when its turn in the queue comes, is an episode with a `failure`.
        `queue_may_wait` is False where nothing would ever take the entries beyond the first `len(rows)`.
        """
        if queue := self._new_queue(options):
            if len(queue) > len(rows) and not queue_may_wait:
                raise ValueError(
                    f"options['indices' or 'prompts'] must have at most {len(rows)} entries, one for each row that is "
                    f"reset, when autoreset_mode is Disabled, got {len(queue)}"
                )
            episodes = [self._queued(queue, k) if k < len(queue) else None for k in range(len(rows))]
            self._queue, self._position = queue if queue_may_wait else None, min(len(rows), len(queue))
            return episodes
        if len(rows) == self._num_rows:
            self._queue = None
        if self._queue is not None and not options.keys() & {"index", "prompt"}:
            for name in ("split", "max_new_tokens", "group_id"):
                if name in options:
                    raise ValueError(f"options[{name!r}] must come with the queue, which has its own for every entry")
            return [self.next(row, generator) for row in rows]
        budgets = self._budgets(options, self._num_rows)
        return [self._single(row, options, int(budgets[row]), generator) for row in rows]

    def next(self, row: int, generator: Callable[[int], np.random.Generator]) -> Episode | None:
        """The episode of a row whose last one ended: from the queue if there is one, else a draw."""
        if self._queue is None:
            return self._single(row, {}, self.max_new_tokens, generator)
        if self._position >= len(self._queue):
            return None
        self._position += 1
        try:
            return self._queued(self._queue, self._position - 1)
        except Exception as error:  # noqa: BLE001  (a user's task may raise anything; it ends its own row)
            return self._failed(self._queue, self._position - 1, error)

    def _new_queue(self, options: Mapping[str, Any]) -> Queue | None:
        split: str | None = None
        problems: Sequence[Problem]
        if "prompts" in options:
            if isinstance(options["prompts"], str):
                raise ValueError(f"options['prompts'] must be a list of prompts, got {options['prompts']!r}")
            problems = [checked_prompt(prompt) for prompt in options["prompts"]]
            indices = np.arange(len(problems))
        elif "indices" in options:
            split = str(options.get("split", self.split))
            problems = self.problems(split)
            indices = integers("indices", options["indices"], low=0, high=len(problems) - 1)
        else:
            return None
        if indices.ndim != 1 or not indices.size:
            raise ValueError(f"options['indices' or 'prompts'] must have shape (K,), K at least 1, got {indices.shape}")
        size = len(indices)
        group_ids = integers("group_ids", options.get("group_ids", np.arange(size)), size=size, low=-1)
        return Queue(split, problems, indices, group_ids, self._budgets(options, size))

    def _budgets(self, options: Mapping[str, Any], size: int) -> np.ndarray:
        """`max_new_tokens` of `size` episodes: one for all, or one each."""
        given = np.asarray(options.get("max_new_tokens", self.max_new_tokens))
        budgets = np.full(size, given) if given.ndim == 0 else given
        return integers("max_new_tokens", budgets, size=size, low=1, high=self.max_new_tokens)

    def _queued(self, queue: Queue, k: int) -> Episode:
        index = int(queue.indices[k])
        if queue.split is None:
            prompt, index = self.prompts.prepare(queue.problems[k]), -1
        else:
            prompt = self._prompt(queue.split, index)
        return Episode(prompt, index, int(queue.group_ids[k]), k, int(queue.max_new_tokens[k]))

    def _failed(self, queue: Queue, k: int, error: Exception) -> Episode:
        index = -1 if queue.split is None else int(queue.indices[k])
        return Episode(self._stand_in(), index, int(queue.group_ids[k]), k, 1, failure=cannot_be_shown(error))

    def _stand_in(self) -> Prompt:
        """The prompt of a problem that could not be shown: an observation has at least one token."""
        tokenizer = self.prompts.tokenizer
        ids = np.array((*tokenizer.start_ids, tokenizer.pad_id)[:1], dtype=np.int32)
        return Prompt(ids, "", (), Problem(""))

    def _single(
        self, row: int, options: Mapping[str, Any], budget: int, generator: Callable[[int], np.random.Generator]
    ) -> Episode:
        if "prompt" in options:
            prompt, index, failure = self.prompts.prepare(checked_prompt(options["prompt"])), -1, ""
        elif "index" in options:
            split = options.get("split", self.split)
            last = len(self.problems(split)) - 1
            index = int(integers("index", options["index"], size=(), low=0, high=last))
            prompt, failure = self._prompt(split, index), ""
        else:
            prompt, index, failure = self._draw(options.get("split", self.split), generator(row))
        self._counts[row] += 1
        group_id = int(integers("group_id", options.get("group_id", -1), size=(), low=-1))
        return Episode(prompt, index, group_id, self._counts[row] - 1, budget, failure)

    def _draw(self, split: str, generator: np.random.Generator) -> tuple[Prompt, int, str]:
        """A problem by chance: prompt, index, and why it could not be shown."""
        index = int(generator.integers(len(self.problems(split))))
        try:
            return self._prompt(split, index), index, ""
        except Exception as error:  # noqa: BLE001  (as above)
            return self._stand_in(), index, cannot_be_shown(error)

    def _prompt(self, split: str, index: int) -> Prompt:
        if (split, index) not in self._cache:
            if len(self._cache) >= MAX_CACHED_PROMPTS:
                self._cache.clear()
            self._cache[split, index] = self.prompts.prepare(self.problems(split)[index])
        return self._cache[split, index]


def cannot_be_shown(error: Exception) -> str:
    """The reason of an episode that could not begin."""
    return f"the problem could not be shown: {type(error).__name__}: {error}"


def checked_options(options: Mapping[str, Any] | None, known: Sequence[str]) -> Mapping[str, Any]:
    """The options, not copied and never written to; `ValueError` for an unknown key or two that exclude each other."""
    options = options or {}
    for key in options:
        if key not in known:
            raise ValueError(f"reset options must be among {', '.join(known)}, got {key!r}")
    sources = [key for key in ("index", "indices", "prompt", "prompts") if key in options]
    if len(sources) > 1:
        raise ValueError(f"reset options must name the problems in one way, got {' and '.join(sources)}")
    if "group_ids" in options and not options.keys() & {"indices", "prompts"}:
        raise ValueError(f"options['group_ids'] needs 'indices' or 'prompts' beside it, got {sorted(options)}")
    if "group_id" in options and options.keys() & {"indices", "prompts"}:
        raise ValueError(f"options['group_id'] is for one problem, use 'group_ids' for a queue, got {sorted(options)}")
    return options


def integers(
    name: str, values: Any, *, size: int | tuple[()] | None = None, low: int | None = None, high: int | None = None
) -> np.ndarray:
    """A reset option as an int64 array, its size and range checked."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"options[{name!r}] must be integers, got {values!r}")
    shape = (size,) if isinstance(size, int) else size
    if shape is not None and array.shape != shape:
        raise ValueError(f"options[{name!r}] must have shape {shape}, got {array.shape}")
    outside = array[(array < (low if low is not None else array)) | (array > (high if high is not None else array))]
    if outside.size:
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"options[{name!r}] must be {wanted}, got {int(outside.flat[0])}")
    return array.astype(np.int64)


def checked_prompt(prompt: Any) -> Problem:
    """A prompt option as a problem.

    `NumpyToTorch` and `ArrayConversion` turn a string among the options into the text of a generator: an error here.
    """
    if isinstance(prompt, str) and prompt.startswith("<generator object"):
        raise ValueError(
            f"options['prompt'] must be text, got {prompt!r}: a wrapper that converts arrays has replaced it; "
            "use options['index'] or set the prompt on the unwrapped environment"
        )
    return as_problem(prompt)
