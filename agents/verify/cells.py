"""What is verified: one line of settings a cell, in the words of the agents' own configurations.

Nothing here knows a formula. `promises` says what a cell's settings promise, `estimate` what the agent that they make
really does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.ppo import PPOConfig
from agents.verify.scene import Scene, scene

PLAIN: dict[str, dict[str, Any]] = {
    "grpo": {"baseline": "leave_one_out", "scale_advantages": "none", "aggregation": "sequence_sum"},
    "ppo": {"whiten_advantages": False, "aggregation": "sequence_sum"},
}
"""The policy gradient itself; a cell names what it has otherwise."""
NO_CLIP = {"clip_low": 1.0, "clip_high": 1e9}


@dataclass(frozen=True)
class Cell:
    """An agent's settings in a scene."""

    section: str
    agent: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from `PLAIN`; `aggregation` belongs to the optimizer."""
    scene_name: str = "letters"
    older: bool = False
    """Whether an older policy acted, as in the second epoch of an update."""
    critic: str = "exact"
    """`exact`, or `wrong`: PPO only."""
    scored: bool = True
    """False: every answer scores 0, what remains is the KL or the entropy."""
    whole_task: bool = False
    """Whether the truth counts what lies behind the budget."""

    @property
    def name(self) -> str:
        """The settings in words."""
        words = [f"{name}={_short(value)}" for name, value in self.settings.items()]
        words += ["V wrong"] * (self.critic == "wrong") + ["older samples"] * self.older
        return f"{self.agent} {' '.join(words)}".strip()

    @property
    def scene(self) -> Scene:
        return scene(self.scene_name, older=self.older)

    def config(self) -> GRPOConfig | PPOConfig:
        """Raises `ValueError` where the project refuses the settings."""
        settings = PLAIN[self.agent] | dict(self.settings)
        optim = OptimConfig(aggregation=settings.pop("aggregation"))
        if self.agent == "grpo":
            return GRPOConfig(optim=optim, **settings)
        return PPOConfig(optim=optim, **settings)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def cells(section: str, agent: str, *lines: Mapping[str, Any], **common: Any) -> list[Cell]:
    """A cell a line."""
    return [Cell(section, agent, line, **common) for line in lines]


def table() -> list[Cell]:
    """The cells that are shown: one setting at a time, and those that people combine."""
    return [
        *cells(
            "Advantages",
            "grpo",
            {},
            {"baseline": "none"},
            {"baseline": "group"},
            {"baseline": "group", "scale_advantages": "batch"},
            {"baseline": "group", "scale_advantages": "group"},
            {"baseline": "leave_one_out", "scale_advantages": "group"},
        ),
        *cells(
            "Advantages of two prompts, an easy and a hard one",
            "grpo",
            {},
            {"baseline": "group"},
            {"baseline": "batch"},
            {"baseline": "batch", "scale_advantages": "batch"},
            {"baseline": "group", "scale_advantages": "batch"},
            {"baseline": "group", "scale_advantages": "group"},
            scene_name="prompts",
        ),
        *cells("Aggregation", "grpo", *({"aggregation": name} for name in AGGREGATIONS)),
        *cells(
            "KL",
            "grpo",
            *({"kl_coef": 1.0, "kl_estimator": kind} for kind in ("k1", "k2", "weighted_k3", "full", "k3")),
            {"kl_coef": 1.0, "kl_in": "reward"},
            {"kl_coef": 1.0, "kl_in": "both"},
            scored=False,
        ),
        *cells(
            "KL and reward",
            "grpo",
            {"kl_coef": 0.1},
            {"kl_coef": 0.1, "kl_in": "reward"},
            {"kl_coef": 0.1, "kl_in": "reward", "baseline": "group"},
            {"kl_coef": 0.1, "kl_in": "both"},
            {"kl_coef": 0.1, "kl_in": "both", "baseline": "group"},
            {"entropy_coef": 0.1},
        ),
    ]
