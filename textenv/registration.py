"""Names to environments: what `import textenv` registers, and `make_vec`."""

from __future__ import annotations

from typing import Any

import gymnasium

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "textenv/Arithmetic-v0": {"task": "arithmetic", "max_new_tokens": 8},
    "textenv/Countdown-v0": {"task": "countdown", "max_new_tokens": 32},
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


def make_vec(id: str, num_envs: int = 1, **settings: Any) -> gymnasium.vector.VectorEnv:
    """The native vector environment of a registered id."""
    return gymnasium.make_vec(id, num_envs=num_envs, vectorization_mode="vector_entry_point", **settings)
