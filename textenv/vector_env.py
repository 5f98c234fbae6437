"""`TextVectorEnv`: the kernel in Gymnasium's clothes, equal to `SyncVectorEnv` of `TextEnv`s and faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rewards.combine import Part
from textenv.ended import Ended, Scored
from textenv.episodes import VECTOR_OPTIONS, checked_options
from textenv.kernel import between
from textenv.rendering import METADATA, RENDER_MODES, as_text, print_rows
from textenv.settings import build, check_positive, env_settings, pack

Observation = dict[str, np.ndarray] | np.ndarray


class FinishedRow(AssertionError, ResetNeeded):
    """A row that is over was stepped, and nothing resets it by itself."""


class StepMany(NamedTuple):
    """What `step_many` gives for N rows and T columns."""

    observations: Any
    rewards: np.ndarray
    """(N, T) float64; a score stands in the column of the episode's last token."""
    terminated: np.ndarray
    """(N,) bool: the row ended in this call (in SAME_STEP its last observation is `infos["final_obs"]`)."""
    truncated: np.ndarray
    infos: dict[str, Any]
    consumed: np.ndarray
    """(N,) int64: columns that the row took, that of a pending reset included."""


class TextVectorEnv(VectorEnv):
    """N rows that each write one completion at a time. Keyword arguments: `textenv.settings.EnvSettings`.

    `reset(options=...)` takes, besides Gymnasium's `reset_mask`: `indices` (K,), a queue of problems that the rows
    take in order, or `prompts`, a queue of the caller's own; `group_ids` (K,), by default the queue positions;
    `index`, `prompt` and `group_id` for the same problem in every row; `split` and `max_new_tokens`. They hold for the
    episodes that this reset starts, and for the whole queue. A row that finds the queue empty is idle: observation of
    length 0, `episode_index` -1, and no step moves it.

    `copy=False` hands out the environment's own arrays, which the next call changes.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        copy: bool = True,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        check_positive("num_envs", num_envs)
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"render_mode must be None or one of {', '.join(RENDER_MODES)}, got {render_mode!r}")
        if max_episode_steps not in (None, -1):
            raise ValueError(
                "max_episode_steps must be left out (a limit from outside cuts an episode off before it is scored): "
                f"set max_new_tokens, got {max_episode_steps}"
            )
        self.autoreset_mode = autoreset_mode_of(autoreset_mode)
        self.settings = env_settings(settings)
        self.num_envs, self.render_mode, self.copy = num_envs, render_mode, copy
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        parts = build(self.settings, num_envs)
        self.task, self.tokenizer, self.stop_spec = parts.task, parts.tokenizer, parts.stop_spec
        self._kernel, self._episodes = parts.kernel, parts.episodes
        self.single_observation_space, self.single_action_space = parts.observation_space, parts.action_space
        self.observation_space = batch_space(parts.observation_space, num_envs)
        self.action_space = batch_space(parts.action_space, num_envs)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs
        self._was_reset = False

    @property
    def num_problems(self) -> int:
        """Problems in the split that is drawn from."""
        return len(self._episodes.problems(self.settings.split))

    @property
    def reward_parts(self) -> Mapping[str, Part]:
        """The parts of the reward, by name; each knows its weight and whether it is a gate."""
        return self._kernel.scorer.parts

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each row's generator."""
        return tuple(self._generator(row) for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each row's seed."""
        return tuple(self._seeds[row] for row in range(self.num_envs) if self._generator(row))

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every row, or in those of `options["reset_mask"]`; the rest stay as they are.

        Raises `ValueError` for options that cannot be, and what the task raises for a problem that they name; nothing
        has changed then.
        """
        options = checked_options(options, VECTOR_OPTIONS)
        seeds = self._row_seeds(seed)
        mask = self._reset_mask(options)
        rows = np.flatnonzero(mask).tolist()
        may_wait = self.autoreset_mode is not AutoresetMode.DISABLED
        before = list(self._generators), list(self._seeds), self._episodes.position()
        try:
            self._reseed([(row, seeds[row]) for row in rows])
            episodes = self._episodes.start(rows, options, self._generator, queue_may_wait=may_wait)
        except Exception:
            self._generators, self._seeds = before[:2]
            self._episodes.go_back(before[2])
            raise
        if mask.all():
            self._kernel.forget_scores()
        self._kernel.start(rows, episodes)
        self._was_reset = True
        return self._observe(), self._kernel.infos(None if mask.all() else mask, copy=self.copy)

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One token for each row: `step_many` with one column."""
        actions = np.asarray(actions)
        if actions.ndim == 0:
            raise TypeError(f"actions must be an array of shape ({self.num_envs},), got the scalar {actions}")
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape ({self.num_envs},), got {actions.shape}")
        result = self.step_many(actions[:, None])
        return result.observations, result.rewards[:, 0], result.terminated, result.truncated, result.infos

    def step_many(self, actions: Any, lengths: Any = None) -> StepMany:
        """Feed row i the tokens `actions[i, :lengths[i]]`, one after the other, up to its first end.

        `lengths` None: all columns. 0 leaves a row as it is. A pending NEXT_STEP reset takes column 0; a SAME_STEP
        reset comes behind the end, takes no column, and leaves the rest of the row's columns unread, and so does a
        reply in a conversation; an idle row takes nothing. Raises before anything changes: `ValueError` (shape),
        `InvalidAction` (not a token), `FinishedRow` (a finished row in DISABLED, fed).
        """
        if not self._was_reset:
            raise ResetNeeded("reset() must be called before step() and step_many()")
        actions, lengths = self._checked_shapes(np.asarray(actions), lengths)
        waiting = self._kernel.ended & (lengths > 0)
        if self.autoreset_mode is AutoresetMode.DISABLED and waiting.any():
            raise FinishedRow(
                f"rows {np.flatnonzero(waiting).tolist()} are finished: reset them, or give them length 0"
            )
        first = waiting.astype(np.int64)
        active = self._kernel.running | waiting
        check_tokens(actions, np.where(active, first, lengths), lengths, len(self.tokenizer))
        if waiting.any():
            self._restart(waiting, first)
        advance = self._kernel.advance(actions, first, lengths)
        ended = advance.terminated | advance.truncated
        if self.render_mode == "human" and ended.any():
            self._print(np.flatnonzero(ended).tolist())
        final: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            final = self._final(ended)
            self._restart(ended, advance.consumed)
        infos = final | self._kernel.infos(copy=self.copy)
        consumed = advance.consumed + first
        return StepMany(self._observe(), advance.rewards, advance.terminated, advance.truncated, infos, consumed)

    def decode(self, rows: Sequence[int]) -> list[str]:
        """What the policy has written so far in these rows."""
        return self._kernel.completions([int(row) for row in rows])

    def scored(self, rows: Sequence[int]) -> list[Ended]:
        """Sample, verdict and episode of the last finished episode of these rows, for logs and viewers; waited for
        where scores are deferred."""
        return [self._kernel.last_ended(int(row)) for row in rows]

    def scores(self, *, wait: bool = True) -> list[Scored]:
        """With `scoring="deferred"`: the episodes that ended and were not delivered before, in the order in which they
        ended (rows of one step from the first to the last), each with the reward that immediate scoring would have
        paid in that step. `wait=False`: only those up to the first whose score is not there yet.

        An episode is known by its row and `episode_index`. What is not fetched is kept until a reset of all rows, which
        forgets it, or `close`. Raises `RewardError` as `on_error` and `max_invalid_share` say: the episodes of that
        step are lost then, the others come with the next call. `ValueError` with `scoring="immediate"`.
        """
        return self._kernel.scores(wait=wait)

    def scoring_metrics(self) -> dict[str, float]:
        """What scoring cost since this was last asked, per part of the reward; see `rewards.Scorer.take_metrics`. With
        deferred scoring to be asked when all scores were delivered."""
        return self._kernel.scorer.take_metrics()

    def render(self) -> tuple[str, ...] | None:
        """`"ansi"`: prompt and completion of each row as text; `"human"`: printed (also whenever an episode ends)."""
        rows = list(range(self.num_envs))
        if self.render_mode == "ansi":
            return tuple(as_text(self._kernel, rows))
        if self.render_mode == "human":
            self._print(rows)
        return None

    def close_extras(self, **kwargs: Any) -> None:
        """End the reward's workers; scores that are pending will not come."""
        if hasattr(self, "_kernel"):
            self._kernel.close()

    def _restart(self, where: np.ndarray, column: np.ndarray) -> None:
        """Begin the next episodes in the rows of `where`, in the order in which their columns would come."""
        rows = np.flatnonzero(where)
        rows = rows[np.argsort(column[rows], kind="stable")].tolist()
        self._kernel.start(rows, [self._episodes.next(row, self._generator) for row in rows])

    def _final(self, ended: np.ndarray) -> dict[str, Any]:
        """`final_obs` and `final_info` of the rows that ended, as `SyncVectorEnv` lays them out."""
        observation = self._kernel.observe(copy=False)
        packed = pack(observation) if self.settings.obs_mode == "packed" else None
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended).tolist():
            single = {name: values[row].copy() for name, values in observation.items()}
            final_obs[row] = single if packed is None else packed[row].copy()
        final_info = self._kernel.infos(ended)
        return {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended.copy()}

    def _observe(self) -> Observation:
        observation = self._kernel.observe(copy=self.copy)
        return pack(observation) if self.settings.obs_mode == "packed" else observation

    def _print(self, rows: list[int]) -> None:
        print_rows(self._kernel, rows)

    def _generator(self, row: int) -> np.random.Generator:
        generator = self._generators[row]
        if generator is None:
            generator, self._seeds[row] = seeding.np_random()
            self._generators[row] = generator
        return generator

    def _row_seeds(self, seed: Any) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"a list of seeds must have one for each of the {self.num_envs} rows, got {len(seed)}")
        return list(seed)

    def _reseed(self, seeds: list[tuple[int, int | None]]) -> None:
        for row, seed in seeds:
            if seed is not None:
                self._generators[row], self._seeds[row] = seeding.np_random(seed)
                self._episodes.forget_counts([row])

    def _reset_mask(self, options: Mapping[str, Any]) -> np.ndarray:
        """The rows to reset; the errors are those of `SyncVectorEnv`."""
        if "reset_mask" not in options:
            return np.ones(self.num_envs, dtype=np.bool_)
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray):
            raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"`options['reset_mask']` must have shape `({self.num_envs},)`, got {mask.shape}")
        if mask.dtype != np.bool_:
            raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
        if not np.any(mask):
            raise ValueError(
                "`options['reset_mask']` must contain a boolean array with at least one True value, "
                f"got reset_mask={mask}"
            )
        if not self._was_reset and not mask.all():
            raise ResetNeeded("the first reset() must reset all rows")
        return mask.copy()

    def _checked_shapes(self, actions: np.ndarray, lengths: Any) -> tuple[np.ndarray, np.ndarray]:
        if actions.ndim != 2 or actions.shape[0] != self.num_envs:
            raise ValueError(f"actions must have shape ({self.num_envs}, T), got {actions.shape}")
        num_columns = actions.shape[1]
        if lengths is None:
            return actions, np.full(self.num_envs, num_columns)
        lengths = np.asarray(lengths)
        if lengths.shape != (self.num_envs,) or lengths.dtype.kind not in "iu":
            raise ValueError(f"lengths must be integers of shape ({self.num_envs},), got {lengths!r}")
        if ((lengths < 0) | (lengths > num_columns)).any():
            raise ValueError(f"lengths must be from 0 to {num_columns}, the columns of actions, got {lengths.tolist()}")
        return actions, lengths.astype(np.int64)


def check_tokens(actions: np.ndarray, first: np.ndarray, lengths: np.ndarray, vocabulary: int) -> None:
    """`InvalidAction` unless the tokens that rows will be fed are integers from 0 to `vocabulary - 1`."""
    if actions.size and actions.dtype.kind not in "iu":
        raise InvalidAction(f"actions must be integers, got dtype {actions.dtype}: {actions.ravel()[:8].tolist()}")
    if not actions.size or (actions.min() >= 0 and actions.max() < vocabulary):
        return
    outside = ((actions < 0) | (actions >= vocabulary)) & between(first, lengths, actions.shape[1])
    for row, column in np.argwhere(outside)[:1]:
        raise InvalidAction(
            f"actions must be tokens from 0 to {vocabulary - 1}, got {actions[row, column]} in row {row}"
        )


def autoreset_mode_of(mode: AutoresetMode | str) -> AutoresetMode:
    """The enum from itself, its value (`"NextStep"`) or its name (`"NEXT_STEP"`)."""
    for candidate in AutoresetMode:
        if mode in (candidate, candidate.value, candidate.name):
            return candidate
    raise ValueError(f"autoreset_mode must be one of {', '.join(m.value for m in AutoresetMode)}, got {mode!r}")
