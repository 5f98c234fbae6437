"""What is verified: one line of settings a cell, in the words of the agents' own configurations.

Nothing here knows a formula. `promises` says what a cell's settings promise, `estimate` what the agent that they make
really does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agents.advantages import BASELINES, SCALES
from agents.credit import TRUNCATIONS
from agents.grpo import GRPOConfig
from agents.losses import AGGREGATIONS, OBJECTIVES, RATIOS
from agents.optim import OptimConfig
from agents.ppo import PPOConfig
from agents.trpo import TRPOConfig
from agents.verify.scene import Scene, scene

Config = GRPOConfig | PPOConfig | TRPOConfig
CONFIGS: dict[str, type[Config]] = {"grpo": GRPOConfig, "ppo": PPOConfig, "trpo": TRPOConfig}
WITH_CRITIC = {"whiten_advantages": False, "truncation": "terminal", "aggregation": "sequence_sum"}
PLAIN: dict[str, dict[str, Any]] = {
    "grpo": {"baseline": "leave_one_out", "scale_advantages": "none", "aggregation": "sequence_sum"},
    "ppo": WITH_CRITIC,
    "trpo": WITH_CRITIC,
}
"""The policy gradient itself; a cell names what it has otherwise."""
EXPERIMENTS = Path(__file__).parents[2] / "conf" / "experiment"
NO_CLIP = {"clip_low": 1.0, "clip_high": 1e9}
ONCE = {"aggregation": "sequence_mean"}
"""A ratio of whole answers counts once an answer."""


@dataclass(frozen=True)
class Cell:
    """An agent's settings in a scene."""

    section: str
    agent: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from `PLAIN`; `aggregation` belongs to the optimizer."""
    label: str | None = None
    """For settings that have a name: these differ from the configuration's own defaults instead."""
    scene_name: str = "letters"
    older: bool = False
    """Whether an older policy acted, as in the second epoch of an update."""
    group_size: int | None = None
    """None: the scene's."""
    critic: str = "exact"
    """`exact`, or `wrong`, where there is one."""
    scored: bool = True
    """False: every answer scores 0, what remains is the KL or the entropy."""
    whole_task: bool = False
    """Whether the truth counts what lies behind the budget."""

    @property
    def name(self) -> str:
        """The settings in words."""
        words = [f"{name}={_short(value)}" for name, value in self.settings.items()]
        words = [self.agent, *words] if self.label is None else [self.label]
        words += [f"groups of {self.group_size}"] * (self.group_size is not None)
        return " ".join(words + ["V wrong"] * (self.critic == "wrong") + ["older samples"] * self.older)

    @property
    def scene(self) -> Scene:
        return scene(self.scene_name, older=self.older, group_size=self.group_size)

    def config(self) -> Config:
        """Raises `ValueError` where the project refuses the settings."""
        settings = dict(self.settings) if self.label is not None else PLAIN[self.agent] | dict(self.settings)
        optim = OptimConfig(aggregation=settings.pop("aggregation", OptimConfig.aggregation))
        return CONFIGS[self.agent](optim=optim, **settings)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def cells(section: str, agent: str, *lines: Mapping[str, Any], **common: Any) -> list[Cell]:
    """A cell a line."""
    return [Cell(section, agent, line, **common) for line in lines]


def table() -> list[Cell]:
    """The cells that are shown: one setting at a time, and those that people combine."""
    return [
        *cells(
            "Advantages of a group",
            "grpo",
            {},
            {"baseline": "none"},
            {"baseline": "group"},
            {"returns": "to_go"},
            {"scale_advantages": "group"},
            {"baseline": "group", "scale_advantages": "group"},
            {"returns": "to_go", "baseline": "none", "whiten_advantages": True},
            {"baseline": "group", "scale_advantages": "group", "normalize_each_reward": True},
        ),
        *cells(
            "Advantages of two groups: an easy prompt, and a hard one that pays little",
            "grpo",
            {},
            {"baseline": "group"},
            {"baseline": "batch"},
            {"baseline": "batch", "scale_advantages": "batch"},
            {"baseline": "group", "scale_advantages": "batch"},
            {"baseline": "group", "scale_advantages": "group"},
            scene_name="prompts",
        ),
        *cells(
            "Advantages of two groups: an easy prompt, and a hard one that pays little",
            "grpo",
            {"baseline": "batch", "scale_advantages": "batch"},
            {"baseline": "group", "scale_advantages": "group"},
            scene_name="prompts",
            group_size=5,
        ),
        *cells("Aggregation", "grpo", *({"aggregation": name} for name in AGGREGATIONS)),
        *cells(
            "Aggregation",
            "grpo",
            {"aggregation": "sequence_mean", "ratio": "sequence"},
            {"aggregation": "sequence_mean", "ratio": "product"},
            {"aggregation": "sequence_sum", "ratio": "product"},
        ),
        *cells(
            "KL of one token (three arms)",
            "grpo",
            *({"kl_coef": 1.0, "kl_estimator": kind} for kind in ("k1", "k2", "weighted_k3", "full", "k3")),
            {"kl_coef": 1.0, "kl_in": "reward"},
            scene_name="bandit",
            scored=False,
        ),
        *cells(
            "KL of one token, samples of an older policy",
            "grpo",
            *({"kl_coef": 1.0, "kl_estimator": kind} for kind in ("k2", "weighted_k3", "full", "k3")),
            {"kl_coef": 1.0, "kl_in": "reward", "ratio": "product", "objective": "plain"} | ONCE,
            scene_name="bandit",
            older=True,
            scored=False,
        ),
        *cells(
            "KL of whole answers",
            "grpo",
            *({"kl_coef": 1.0, "kl_estimator": kind} for kind in ("k2", "weighted_k3", "full", "k3")),
            {"kl_coef": 1.0, "kl_in": "reward"},
            *({"kl_coef": 1.0, "kl_in": "reward", "kl_estimator": kind} for kind in ("k3", "full")),
            {"kl_coef": 1.0, "kl_in": "both"},
            {"kl_coef": 1.0, "kl_in": "both", "kl_estimator": "k2"},
            scored=False,
        ),
        *cells(
            "Reward and KL, or entropy",
            "grpo",
            {"kl_coef": 0.1},
            {"kl_coef": 0.1, "baseline": "group"},
            {"kl_coef": 0.1, "kl_in": "reward"},
            {"kl_coef": 0.1, "kl_in": "reward", "baseline": "group"},
            {"kl_coef": 0.1, "kl_in": "both"},
            {"kl_coef": 0.1, "kl_in": "both", "baseline": "group"},
            {"entropy_coef": 0.1},
        ),
        *cells(
            "Samples of an older policy",
            "grpo",
            {"ratio": "product", "objective": "plain"} | ONCE,
            {"ratio": "product", "objective": "cispo"} | NO_CLIP,
            {"ratio": "product"} | ONCE,
            {"ratio": "token", "objective": "plain"},
            {"ratio": "token"},
            {"ratio": "token", "clip_high": 0.28, "ratio_cap": 1.5},
            {"ratio": "token", "objective": "cispo", "clip_low": 1.0, "clip_high": 4.0},
            {"ratio": "sequence", "objective": "plain"},
            {"ratio": "sequence"},
            older=True,
        ),
        *cells(
            "Credit by a critic",
            "ppo",
            {},
            {"gamma": 0.9},
            {"lam": 0.5},
            {"whiten_advantages": True},
            {"whiten_rewards": "returns"},
            {"whiten_rewards": "tokens"},
            {"reward_clip": 0.5},
            {"objective": "penalty"},
            {"entropy_coef": 0.1},
            *({"aggregation": name} for name in AGGREGATIONS if name != "sequence_sum"),
        ),
        *cells("Credit by a critic that is wrong", "ppo", {}, {"lam": 0.95}, {"lam": 0.5}, {"lam": 0.0}, critic="wrong"),
        *cells(
            "PPO and the KL",
            "ppo",
            {"kl_coef": 0.1},
            {"kl_coef": 0.1, "kl_in": "loss"},
            {"kl_coef": 0.1, "kl_in": "loss", "kl_estimator": "full"},
            {"kl_coef": 0.1, "kl_in": "loss", "kl_estimator": "k3"},
            {"kl_coef": 0.1, "kl_in": "both"},
            {"kl_coef": 0.1, "kl_in": "loss", "kl_estimator": "k1"},
        ),
        *cells("PPO's later epochs", "ppo", {}, {"clip_high": 0.28, "ratio_cap": 1.5}, {"objective": "penalty"}, older=True),
        *cells(
            "Answers that the budget cuts, where they would have gone on",
            "ppo",
            {"truncation": "bootstrap"},
            {"truncation": "terminal"},
            {"truncation": "penalty", "truncation_penalty": 0.5},
            {"truncation": "mask"},
            scene_name="cut",
            whole_task=True,
        ),
        *cells(
            "Answers that the budget cuts, where they would have gone on",
            "ppo",
            {"truncation": "bootstrap"},
            scene_name="cut",
            whole_task=True,
            critic="wrong",
        ),
        *cells(
            "Answers that the budget cuts, where they would have gone on",
            "grpo",
            {"truncation": "keep"},
            {"truncation": "mask", "aggregation": "constant"},
            {"truncation": "mask"},
            scene_name="cut",
            whole_task=True,
        ),
        *cells(
            "TRPO's gradient, before the curvature bends it",
            "trpo",
            {},
            {"lam": 0.5},
            {"whiten_advantages": True},
            {"kl_coef": 0.1},
            {"aggregation": "constant"},
        ),
        *named(),
        *cells("Four tokens, three long", "grpo", {}, {"baseline": "group"}, {"aggregation": "token_mean"}, scene_name="long"),
        *cells("Four tokens, three long", "ppo", {}, {"kl_coef": 0.1}, scene_name="long"),
    ]


def combinations() -> list[Cell]:
    """All of what goes together, and what is refused: some two thousand cells."""
    kl: list[dict[str, Any]] = [{}, *({"kl_coef": 0.1, "kl_in": place} for place in ("reward", "both"))]
    kl += [{"kl_coef": 0.1, "kl_in": "loss", "kl_estimator": kind} for kind in ("k2", "k3", "weighted_k3", "full")]
    advantages = options("grpo", baseline=BASELINES, scale_advantages=SCALES)
    aggregations = options("grpo", aggregation=AGGREGATIONS)
    ratios = options("grpo", objective=OBJECTIVES, ratio=RATIOS, baseline=("leave_one_out", "group"))
    cuts = options("grpo", truncation=("keep", "mask"))
    critics = options("ppo", truncation=TRUNCATIONS, whiten_advantages=(False, True), lam=(1.0, 0.9))
    steps = options("ppo", objective=("clip", "penalty"))
    made = {"scene_name": "cut"}
    return [
        *cells("GRPO, its own samples", "grpo", *joined(advantages, aggregations, kl, cuts), **made),
        *cells("GRPO, samples of an older policy", "grpo", *joined(ratios, aggregations, kl), **made, older=True),
        *cells("PPO, its own samples", "ppo", *joined(critics, aggregations, kl), **made),
        *cells("PPO, its own samples, a critic that is wrong", "ppo", *joined(critics, aggregations, kl), **made, critic="wrong"),
        *cells("PPO, samples of an older policy", "ppo", *joined(steps, aggregations, kl), **made, older=True),
    ]


def options(agent: str, **choices: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination, without what is `PLAIN`."""
    found = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    if agent == "ppo":
        found = [line | {"truncation_penalty": 0.5} if line.get("truncation") == "penalty" else line for line in found]
    return [{k: v for k, v in line.items() if k not in PLAIN[agent] or PLAIN[agent][k] != v} for line in found]


def joined(*lists: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every combination of one of each."""
    return [{k: v for line in lines for k, v in line.items()} for lines in product(*lists)]


def named() -> list[Cell]:
    """Settings that have a name: the agents' defaults and `conf/experiment`, at the first step of an update, and those
    that take several steps at a later one."""
    found = {f"agent={agent}": (agent, {}) for agent in CONFIGS}
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        experiment: Any = OmegaConf.to_container(OmegaConf.load(path))
        for line in experiment.get("defaults", []):
            if line.get("override /agent") in CONFIGS:
                found[f"experiment={path.stem}"] = (line["override /agent"], dict(experiment.get("agent", {})))
    first, later = [], []
    for label, (agent, settings) in found.items():
        optim = settings.pop("optim", {})
        if "aggregation" in optim:
            settings["aggregation"] = optim["aggregation"]
        first.append(Cell("By name, the first step", agent, settings, label=label))
        if "minibatch_rows" in optim or agent == "ppo":
            later.append(Cell("By name, a later step", agent, settings, label=label, older=True))
    return first + later
