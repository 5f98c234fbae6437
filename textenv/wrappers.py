"""Wrappers for people who use the environment without our agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import VectorWrapper

from textenv.vector_env import TextVectorEnv


class GroupPrompts(VectorWrapper):
    """Every problem is answered by `group_size` rows, as GRPO wants it; `infos["group_id"]` says which belong together.

    A reset draws `num_problems` problems without repetition (default: as many as fill the rows) or takes the caller's
    `options["indices"]`, and hands the environment the queue with every problem `group_size` times in a row. In
    DISABLED the rows are one wave; in NEXT_STEP and SAME_STEP the queue may be longer than the rows: a row that ends
    takes the next entry, members of a group end at different times and keep their `group_id`. When the queue is spent,
    rows are idle (`infos["episode_index"]` is -1) until the next reset.
    """

    def __init__(self, env: TextVectorEnv, group_size: int, *, num_problems: int | None = None) -> None:
        if not isinstance(env.unwrapped, TextVectorEnv):
            raise ValueError(f"GroupPrompts needs a native environment (TextVectorEnv), got {type(env.unwrapped)}")
        super().__init__(env)
        if isinstance(group_size, bool) or not isinstance(group_size, int):
            raise ValueError(f"group_size must be an integer of at least 2, got {group_size!r}")
        if group_size < 2:
            raise ValueError(f"group_size must be at least 2 (a group is compared within itself), got {group_size}")
        if num_problems is None and env.num_envs % group_size:
            raise ValueError(
                f"num_envs must be a multiple of group_size={group_size} (or name num_problems), got {env.num_envs}"
            )
        self.group_size = group_size
        self.num_problems = env.num_envs // group_size if num_problems is None else num_problems
        available = env.unwrapped.num_problems
        if not 1 <= self.num_problems <= available:
            raise ValueError(
                f"num_problems must be from 1 to {available}, the problems of the split, got {self.num_problems}"
            )
        self._generator, _ = seeding.np_random()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the groups; `options` are those of the environment, `indices` naming each problem once.

        Raises `ValueError` for options that name problems in another way, and for a `reset_mask`: groups start
        together.
        """
        options = dict(options or {})
        for name in ("index", "prompt", "prompts", "group_id", "group_ids", "reset_mask"):
            if name in options:
                raise ValueError(
                    f"options[{name!r}] cannot be combined with GroupPrompts; name the problems in 'indices'"
                )
        seeds = [int(s) for s in np.atleast_1d(np.asarray(seed, dtype=object)) if s is not None]
        if seeds:
            self._generator = np.random.default_rng(seeds)
        problems = np.asarray(options.pop("indices", None) if "indices" in options else self._draw(options))
        options["indices"] = np.repeat(problems, self.group_size)
        options["group_ids"] = np.repeat(np.arange(len(problems)), self.group_size)
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def _draw(self, options: Mapping[str, Any]) -> np.ndarray:
        env: Any = self.env.unwrapped
        available = len(env.task.split(options["split"])) if "split" in options else env.num_problems
        if available < self.num_problems:
            raise ValueError(
                f"num_problems must be at most {available}, the problems of the split {options['split']!r}"
            )
        return self._generator.choice(available, size=self.num_problems, replace=False)
