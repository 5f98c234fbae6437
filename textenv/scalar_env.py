"""`TextEnv`: the kernel at one row, as a plain `gymnasium.Env`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from textenv.ended import Ended, Scored
from textenv.episodes import SCALAR_OPTIONS, VECTOR_OPTIONS, checked_options
from textenv.rendering import METADATA, RENDER_MODES, as_text, print_rows
from textenv.settings import build, env_settings, pack
from textenv.vector_env import FinishedRow, check_tokens


class TextEnv(gymnasium.Env):
    """One completion at a time. Keyword arguments: `textenv.settings.EnvSettings`.

    `reset(options=...)` takes `index` (a problem of the split), `prompt`, `group_id`, `split` and `max_new_tokens`.
    """

    metadata = dict(METADATA)

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"render_mode must be None or one of {', '.join(RENDER_MODES)}, got {render_mode!r}")
        self.settings = env_settings(settings)
        self.render_mode, self.metadata = render_mode, dict(METADATA)
        parts = build(self.settings, 1)
        self.task, self.tokenizer, self.stop_spec = parts.task, parts.tokenizer, parts.stop_spec
        self._kernel, self._episodes = parts.kernel, parts.episodes
        self.observation_space, self.action_space = parts.observation_space, parts.action_space
        self._was_reset = False

    @property
    def num_problems(self) -> int:
        """Problems in the split that is drawn from."""
        return len(self._episodes.problems(self.settings.split))

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode. Raises as `TextVectorEnv.reset`."""
        for key in set(options or {}) & set(VECTOR_OPTIONS) - set(SCALAR_OPTIONS):
            raise ValueError(f"options[{key!r}] is for TextVectorEnv: an environment of one row cannot know its place")
        options = checked_options(options, SCALAR_OPTIONS)
        before = self._np_random, self._np_random_seed, self._episodes.position()
        try:
            super().reset(seed=seed)
            if seed is not None:
                self._episodes.forget_counts([0])
            episodes = self._episodes.start([0], options, lambda _: self.np_random, queue_may_wait=False)
        except Exception:
            self._np_random, self._np_random_seed = before[:2]
            self._episodes.go_back(before[2])
            raise
        self._kernel.forget_scores()
        self._kernel.start([0], episodes)
        self._was_reset = True
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Write one token."""
        if not self._was_reset:
            raise ResetNeeded("reset() must be called before step()")
        actions = np.asarray(action)
        if actions.size != 1:
            raise ValueError(f"action must be one token, got {action!r}")
        actions = actions.reshape(1, 1)
        zero, one = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
        check_tokens(actions, zero, one, len(self.tokenizer))
        if self._kernel.ended[0]:
            raise FinishedRow("the episode is finished: reset() must be called before the next step()")
        advance = self._kernel.advance(actions, zero, one)
        terminated, truncated = bool(advance.terminated[0]), bool(advance.truncated[0])
        if self.render_mode == "human" and (terminated or truncated):
            print_rows(self._kernel, [0])
        return self._observe(), float(advance.rewards[0, 0]), terminated, truncated, self._info()

    @property
    def prompt(self) -> str:
        """The present episode's prompt as text."""
        return self._kernel.prompt_text(0)

    def decode(self) -> str:
        """What the policy has written so far."""
        return self._kernel.completions([0])[0]

    def scored(self) -> Ended:
        """Sample, verdict and episode of the last finished episode, waited for where its score is deferred."""
        return self._kernel.last_ended(0)

    def scores(self, *, wait: bool = True) -> list[Scored]:
        """As `TextVectorEnv.scores`; every reset forgets what was not fetched."""
        return self._kernel.scores(wait=wait)

    def render(self) -> str | None:
        """`"ansi"`: prompt and completion as text; `"human"`: printed (also whenever an episode ends)."""
        if self.render_mode == "ansi":
            return as_text(self._kernel, [0])[0]
        if self.render_mode == "human":
            print_rows(self._kernel, [0])
        return None

    def close(self) -> None:
        """End the reward's workers; scores that are pending will not come."""
        self._kernel.close()

    def _observe(self) -> Any:
        observation = self._kernel.observe()
        if self.settings.obs_mode == "packed":
            return pack(observation)[0]
        return {name: values[0] for name, values in observation.items()}

    def _info(self) -> dict[str, Any]:
        """Plain numbers, which `SyncVectorEnv` gathers into the arrays of `TextVectorEnv`."""
        return {name: values[0].item() for name, values in self._kernel.info.items()}
