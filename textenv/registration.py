"""Names to environments: what `import textenv` registers, and `make_vec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from textenv.vector_env import autoreset_mode_of

VECTORIZATION_MODES = ("native", "sync", "async")
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "textenv/Arithmetic-v0": {"task": "arithmetic", "max_new_tokens": 8},
    "textenv/Calculator-v0": {"task": "calculator", "max_new_tokens": 64},
    "textenv/Countdown-v0": {"task": "countdown", "max_new_tokens": 32},
    "textenv/Guess-v0": {"task": "guess", "max_new_tokens": 64},
    "textenv/Target-v0": {"task": "target", "max_new_tokens": 10},
    "textenv/Text-v0": {
        "task": {"_target_": "textenv.tasks.text.Problems", "problems": [{"prompt": "Say hello.", "answer": "hello"}]},
        "max_new_tokens": 32,
    },
}


def register_environments() -> None:
    """Register the ids; specs hold JSON alone, and nothing is imported before one is made."""
    for name, keywords in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point="textenv.scalar_env:TextEnv",
                vector_entry_point="textenv.vector_env:TextVectorEnv",
                kwargs=keywords,
            )


def make_vec(
    id: str,
    num_envs: int = 1,
    *,
    vectorization_mode: str = "native",
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    copy: bool = True,
    vector_kwargs: Mapping[str, Any] | None = None,
    **settings: Any,
) -> VectorEnv:
    """A vector environment of a registered id: `native` (`TextVectorEnv`), `sync` or `async`.

    `gymnasium.make_vec` does the same, but takes the autoreset mode and `copy` in `vector_kwargs` for the latter two
    and as settings for the first. `vector_kwargs` are the others of `SyncVectorEnv` and `AsyncVectorEnv` (`context`,
    ...). Raises `ValueError` for another mode, and for `vector_kwargs` beside `native`, whose arguments are all
    settings.
    """
    mode = autoreset_mode_of(autoreset_mode)
    if vectorization_mode not in VECTORIZATION_MODES:
        known = ", ".join(VECTORIZATION_MODES)
        raise ValueError(f"vectorization_mode must be one of {known}, got {vectorization_mode!r}")
    if vectorization_mode != "native":
        kwargs = {"autoreset_mode": mode.value, "copy": copy, **(vector_kwargs or {})}
        return gymnasium.make_vec(id, num_envs, vectorization_mode, vector_kwargs=kwargs, **settings)
    if vector_kwargs:
        raise ValueError(f"vector_kwargs must be empty with vectorization_mode='native', got {dict(vector_kwargs)}")
    return gymnasium.make_vec(id, num_envs, "vector_entry_point", autoreset_mode=mode.value, copy=copy, **settings)
