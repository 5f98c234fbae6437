"""`SB3VecEnv`: a vector environment as Stable-Baselines3's own kind, without a Python environment per row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from textenv.types import FinishReason


class SB3VecEnv(VecEnv):
    """Wraps a vector environment in SAME_STEP, which is what SB3 expects of its own.

    A row that ends leaves `terminal_observation` and its infos in its dict. `TimeLimit.truncated`, on which SB3 adds
    the critic's value to a reward that was already paid, is set only for a limit from outside (Gymnasium's TimeLimit):
    an episode that we end ourselves has been paid. Raises `ValueError` for another autoreset mode, for `copy=False`,
    since SB3 keeps the last observation over a step, and for deferred scoring, which it would never fetch.
    """

    def __init__(self, env: VectorEnv) -> None:
        if not isinstance(env, VectorEnv):
            raise ValueError(f"SB3VecEnv needs a vector environment (textenv.make_vec), got {type(env).__name__}")
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(f"SB3VecEnv needs an environment with autoreset_mode='SameStep', got {mode}")
        if not getattr(env.unwrapped, "copy", True):
            raise ValueError("SB3VecEnv needs an environment with copy=True, got copy=False")
        if getattr(getattr(env.unwrapped, "settings", None), "scoring", "immediate") != "immediate":
            raise ValueError("SB3VecEnv needs an environment with scoring='immediate', got 'deferred'")
        self.env = env
        self._actions = np.zeros(env.num_envs, dtype=np.int64)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Start an episode in every row, with the seeds and options given before."""
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        if any(options != self._options[0] for options in self._options):
            raise ValueError(f"options must be the same for every row, got {self._options}")
        options = self._options[0] or None
        observations, infos = self.env.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        self.reset_infos = [in_row(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One step of all rows; only those that ended, or were told something, have something in their infos."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        shown: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = terminated | truncated
        for row in np.flatnonzero(infos.get("num_injected", np.zeros(self.num_envs))).tolist():
            shown[row] = in_row(infos, row)
        if done.any():
            final = infos["final_info"]
            reason = np.asarray(final.get("finish_reason", np.zeros(self.num_envs)))
            cut = truncated & ~terminated & (reason == FinishReason.RUNNING)
            for row in np.flatnonzero(done).tolist():
                shown[row], self.reset_infos[row] = in_row(final, row), in_row(infos, row)
                shown[row]["terminal_observation"] = infos["final_obs"][row]
                shown[row]["TimeLimit.truncated"] = bool(cut[row])
        return observations, rewards.astype(np.float32), done, shown

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environment, once for each row asked for."""
        return [self._attribute(attr_name)] * len(self._rows(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environment; `ValueError` for some of the rows only."""
        self._for_all(indices)
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the environment once; its result stands for each row. `ValueError` for some rows only."""
        self._for_all(indices)
        return [self._attribute(method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """No row is an environment of its own that could be wrapped."""
        return [False] * len(self._rows(indices))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """There are no images of text."""
        return [None] * self.num_envs

    def _attribute(self, name: str) -> Any:
        """Of the environment, or of what its wrappers wrap."""
        return getattr(self.env if hasattr(self.env, name) else self.env.unwrapped, name)

    def _rows(self, indices: int | Iterable[int] | None) -> list[int]:
        return list(self._get_indices(indices))

    def _for_all(self, indices: Any) -> None:
        if sorted(self._rows(indices)) != list(range(self.num_envs)):
            raise ValueError(f"indices must be all rows, which share one environment, got {indices}")


def in_row(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """The infos of one row that are plain numbers."""
    return {
        name: values[row].item()
        for name, values in infos.items()
        if not name.startswith("_") and isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype != object
    }
