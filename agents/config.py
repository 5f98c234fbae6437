"""The typed configuration of a run, and its names in Hydra's ConfigStore.

Ours is a closed set: dataclasses whose ranges are checked when they are made. The user's is an open set: `task` and
`reward` are mappings with `_target_`, imported only when chosen. `typed` turns what Hydra composed into the former;
nothing behind it sees OmegaConf.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.grpo import GRPOConfig
from agents.optim import num_minibatches
from agents.policy.hardware import PRECISIONS
from agents.policy.loading import TinyConfig
from agents.ppo import PPOConfig
from agents.require import require
from agents.trpo import TRPOConfig
from rewards.preference.config import TrainConfig as RewardModelConfig
from rewards.preference.lora import LoraConfig

AgentConfig = GRPOConfig | PPOConfig | TRPOConfig
AGENTS: dict[str, type[AgentConfig]] = {"grpo": GRPOConfig, "ppo": PPOConfig, "trpo": TRPOConfig}
OPEN = ("task", "reward")
"""The user's groups: any mapping may stand there."""
CHOOSE = "choose"
"""What stands in `conf/policy/hf.yaml` until a model is named (a missing value would not replace the default)."""


@dataclass
class PolicyConfig:
    """The language model and how it is sampled."""

    model: str = "smollm2"
    """`smollm2`, `tiny` (random), a local folder, or a hub name."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    precision: str = "auto"
    """Number format of the compute, with float32 master weights: `auto`, `float32` or `bfloat16`."""
    temperature: float = 1.0
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    tiny: TinyConfig = field(default_factory=TinyConfig)
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    """Train an adapter instead of all weights: `policy.lora.rank=16`."""

    def __post_init__(self) -> None:
        require(
            bool(self.model) and self.model != CHOOSE,
            f"policy.model must be a name or a folder, got {self.model!r}: policy=hf policy.model=folder-or-hub-name",
        )
        require(self.temperature > 0, f"policy.temperature must be above 0 to explore, got {self.temperature}")
        require(self.top_k >= 0, f"policy.top_k must be at least 0 (0: off), got {self.top_k}")
        require(0 < self.top_p <= 1, f"policy.top_p must be in (0, 1], got {self.top_p}")
        known = ("auto", *PRECISIONS)
        require(self.precision in known, f"policy.precision must be one of {', '.join(known)}, got {self.precision!r}")
        if self.lora is not None:
            self.lora.check("policy.lora")

    @property
    def adapter(self) -> LoraConfig | None:
        """What is trained instead of all weights; None: all weights are."""
        return self.lora if self.lora is not None and self.lora.rank > 0 else None


@dataclass
class EnvConfig:
    """The environment's settings that belong to a run; `textenv.settings.EnvSettings` says more of each."""

    rows: int | None = None
    """Rows of the environment; null: as many as an iteration has completions (fewer stream through the rows)."""
    propose_tokens: int = 32
    """Tokens that the policy proposes per round; changes speed, never results."""
    max_new_tokens: int = 24
    max_prompt_tokens: int | None = None
    stop_strings: list[str] = field(default_factory=list)
    include_stop: bool = False
    budget: str = "terminate"
    """What a spent budget is called: `terminate` or `truncate`."""
    on_long_prompt: str = "error"
    """`error`, or cut its `left` or `right` side."""
    chat: bool | None = None
    """null: the chat template, where the tokenizer has one."""
    system_prompt: str | None = None
    prompt_template: str | None = None
    """For example `"{prompt} Think first."`"""
    on_error: Any = "invalid"
    """When a grader fails: `invalid` leaves the sample out, `raise` ends the run, a number is the score."""
    timeout_seconds: float = 10.0
    max_invalid_share: float = 0.2
    scoring: str = "immediate"
    """`deferred`: score what ended while other rows decode, for slow rewards; the rollouts are equal."""
    reward_workers: int | None = None
    """Processes for rewards that run outside of the trainer; null: a quarter of the cores."""
    worker_memory_mb: int | None = None
    """What each of them may take; null: no limit of ours."""
    keep_environment: list[str] = field(default_factory=list)
    """Variables that they are shown although they look like secrets, such as `[OPENAI_API_KEY]`."""
    cache_size: int = 0
    """Scores kept of rewards that say the same of the same completion; 0: none."""

    def __post_init__(self) -> None:
        require(self.rows is None or self.rows >= 1, f"env.rows must be at least 1 or null, got {self.rows}")
        for name in ("propose_tokens", "max_new_tokens"):
            require(getattr(self, name) >= 1, f"env.{name} must be at least 1, got {getattr(self, name)}")
        require(self.timeout_seconds > 0, f"env.timeout_seconds must be positive, got {self.timeout_seconds}")
        for name, least in (("reward_workers", 1), ("worker_memory_mb", 64)):
            value = getattr(self, name)
            require(value is None or value >= least, f"env.{name} must be at least {least} or null, got {value}")
        require(self.cache_size >= 0, f"env.cache_size must be at least 0, got {self.cache_size}")


@dataclass
class EvaluationConfig:
    """Held-out problems, before, during and after training."""

    every: int = 10
    """Iterations between evaluations (greedy); 0: only before and after."""
    problems: int = 200
    """Of the test split, always the same; at most as many as it has."""
    samples: int = 4
    """Sampled completions a problem, before and after, for pass@k; 0: greedy only."""
    correct_at: float = 1.0
    """A completion counts as correct from this score of the task's own reward on."""

    def __post_init__(self) -> None:
        require(self.every >= 0, f"evaluation.every must be at least 0, got {self.every}")
        require(self.problems >= 1, f"evaluation.problems must be at least 1, got {self.problems}")
        require(self.samples >= 0, f"evaluation.samples must be at least 0, got {self.samples}")


@dataclass
class LoggingConfig:
    """Where numbers go, besides `metrics.jsonl`."""

    tensorboard: bool = True
    wandb: bool = False
    wandb_project: str = "textenv"
    completions: bool = True
    """Save every completion with its scores to `completions.jsonl`."""
    rollouts: bool = False
    """Save what each update learned from, token by token, to `rollouts/`, for `python -m agents.replay` and viewers:
    1.5 KB a completion of 24 tokens, 35 KB one of 1,000. Changes nothing of what is learned."""
    entropy: bool = False
    """Compute the entropy of every distribution that is sampled from (5 % of the rollout's time); else the metric
    `entropy` is estimated, without bias, by what was drawn: the mean of -log p."""


@dataclass
class PreferencesConfig:
    """What is done before a run that is rewarded by a reward model: preferences of a true reward are drawn, and the
    model is trained on them. Runs that agree in everything it depends on share its folder."""

    folder: str = "${runs}/preferences-seed${seed}"
    truth: str = MISSING
    """The part of `reward` that judges; with weight 0 the policy never hears of it."""
    judgements: int = 1000
    """Rankings to draw."""
    responses: int = 4
    """Completions of the untrained policy in each."""
    temperature: float = 1.0
    """How much the judge errs: a completion's worth is its true reward over this (Plackett-Luce)."""
    reward_model: RewardModelConfig = field(
        default_factory=lambda: RewardModelConfig(
            data="${preparation.folder}/preferences.jsonl", output="${preparation.folder}/reward_model"
        )
    )
    """As for `python -m rewards.preference.train`."""

    def __post_init__(self) -> None:
        require(self.judgements >= 2, f"preparation.judgements must be at least 2, got {self.judgements}")
        require(self.responses >= 2, f"preparation.responses must be at least 2, got {self.responses}")
        require(self.temperature > 0, f"preparation.temperature must be above 0, got {self.temperature}")


@dataclass
class TrainConfig:
    """A run."""

    agent: Any = None
    task: Any = None
    reward: Any = None
    """null: the task's own."""
    preparation: Any = None
    """What is done before the run begins, and not again when it is resumed: null, or `preferences`."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    name: str | None = None
    """Folder of the run under `runs`; null: date, agent, task and seed."""
    runs: str = "runs"
    iterations: int = 54
    max_seconds: float | None = None
    """End early after this many seconds of training; null: no limit."""
    max_tokens: int | None = None
    """End after this many generated tokens; null: no limit."""
    checkpoint_every: int = 20
    """Iterations between checkpoints; the end and Ctrl-C always write one."""
    keep_checkpoints: int = 1
    """Besides the one that did best on held-out problems."""
    seed: int = 0
    strict: bool = False
    """Repeat bit for bit: the same settings, machine and number of threads give the same weights."""
    threads: int | None = None
    """Of torch on the CPU; null: torch decides."""
    resume: str | None = None
    """The folder of a run to continue."""
    explain: bool = False
    """Print what the run would do, and do nothing; `--explain` is the same."""

    def __post_init__(self) -> None:
        for name in ("name", "resume"):  # as `resume=$RUN` is where nobody has set RUN
            require(getattr(self, name) != "", f"{name} must be a folder's name or null, got ''")
        require(self.iterations >= 1, f"iterations must be at least 1, got {self.iterations}")
        require(self.checkpoint_every >= 1, f"checkpoint_every must be at least 1, got {self.checkpoint_every}")
        require(self.keep_checkpoints >= 1, f"keep_checkpoints must be at least 1, got {self.keep_checkpoints}")
        limit = self.max_seconds
        require(limit is None or limit > 0, f"max_seconds must be positive or null, got {limit}")
        require(
            self.max_tokens is None or self.max_tokens >= 1, f"max_tokens must be at least 1, got {self.max_tokens}"
        )
        require(self.threads is None or self.threads >= 1, f"threads must be at least 1 or null, got {self.threads}")
        require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")
        if isinstance(self.agent, AgentConfig):
            self._check_agent()
            self._check_reference()

    def _check_agent(self) -> None:
        require(
            not isinstance(self.agent, TRPOConfig) or self.policy.precision != "bfloat16",
            "policy.precision must be float32 or auto with agent=trpo (the curvature is a difference of gradients that "
            f"lie close together, which bfloat16 rounds away), got {self.policy.precision!r}",
        )
        if not isinstance(self.agent, PPOConfig):
            return
        ppo, optim = self.agent, self.agent.optim
        require(
            ppo.critic_warmup < self.iterations,
            f"agent.critic_warmup must be below iterations = {self.iterations} (else the actor never learns), "
            f"got {ppo.critic_warmup}",
        )
        steps = optim.epochs * num_minibatches(optim, ppo.prompts, ppo.group_size)
        require(
            ppo.objective == "clip" or steps > 1,
            "agent.objective=penalty needs several optimizer steps an iteration (at the first the KL to the old policy "
            "has no gradient, whatever its weight): agent.optim.epochs of at least 2, or agent.optim.minibatch_rows of "
            f"at most {(ppo.prompts - 1) * ppo.group_size} (groups stay together), got {optim.epochs} and "
            f"{optim.minibatch_rows}",
        )

    def _check_reference(self) -> None:
        policy, every = self.policy, self.agent.reference_every
        whole = policy.top_k == 0 and policy.top_p == 1
        require(
            whole or self.agent.kl_kind != "full",
            "agent.kl_estimator=full needs every token to have a probability: policy.top_k must be 0 and policy.top_p "
            f"1, got {policy.top_k} and {policy.top_p}",
        )
        require(
            every is None or policy.adapter is None,
            f"agent.reference_every={every} needs weights of the reference's own; under an adapter it is the policy "
            f"without the adapter: policy.lora.rank must be 0, got {policy.adapter and policy.adapter.rank}",
        )


def register() -> None:
    """Make the dataclasses known to Hydra: `train_schema` and the group `agent`."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    for name, node in AGENTS.items():
        store.store(group="agent", name=name, node=node)
    store.store(group="preparation", name="preferences", node=PreferencesConfig)


def schema(settings: Mapping[str, Any]) -> DictConfig:
    """The typed tree of a run with this agent, with every default. Raises `KeyError` for an agent that is not known."""
    groups: dict[str, Any] = {"agent": OmegaConf.structured(AGENTS[settings["agent"]["name"]])}
    if settings.get("preparation") is not None:
        groups["preparation"] = OmegaConf.structured(PreferencesConfig)
    merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), groups)
    assert isinstance(merged, DictConfig)
    return merged


def from_settings(settings: Mapping[str, Any]) -> TrainConfig:
    """The dataclasses behind settings that a run's folder holds. Raises `ValueError` where they are not a run's."""
    try:
        known = schema(settings)
        unknown, _ = settings_apart(settings, OmegaConf.to_container(known))  # type: ignore[arg-type]
        require(not unknown, f"they have what this version of the program does not know: {', '.join(unknown)}")
        composed = OmegaConf.merge(known, dict(settings))
    except (OmegaConfBaseException, KeyError, TypeError) as error:
        raise ValueError(f"settings that do not fit together ({error})") from error
    assert isinstance(composed, DictConfig)
    return typed(composed)


def settings_apart(
    settings: Mapping[str, Any], known: Mapping[str, Any], path: str = ""
) -> tuple[list[str], list[str]]:
    """What only `settings` have and what only `known` has, as `path=value`; the user's open groups are left out.

    >>> settings_apart({"seed": 1, "agent": {"clip": 0.2}}, {"seed": 0, "agent": {"clip_low": 0.2}})
    (['agent.clip=0.2'], ['agent.clip_low=0.2'])
    """
    only_there = [f"{path}{name}={settings[name]}" for name in settings if name not in known]
    only_here = [f"{path}{name}={known[name]}" for name in known if name not in settings]
    for name in (name for name in settings if name in known and f"{path}{name}" not in OPEN):
        if isinstance(settings[name], Mapping) and isinstance(known[name], Mapping):
            there, here = settings_apart(settings[name], known[name], f"{path}{name}.")
            only_there, only_here = only_there + there, only_here + here
    return only_there, only_here


def typed(composed: DictConfig) -> TrainConfig:
    """The dataclasses behind what Hydra composed. Raises `ValueError` for a setting out of range or left open."""
    missing = sorted(OmegaConf.missing_keys(composed))
    require(not missing, f"a value must be given for {', '.join(missing)}: it has no default")
    config = OmegaConf.to_object(composed)
    assert isinstance(config, TrainConfig)
    require(
        isinstance(config.agent, AgentConfig),
        f"agent must be one of {', '.join(AGENTS)}, got {config.agent!r}: choose one as in agent=grpo",
    )
    require(
        config.preparation is None or isinstance(config.preparation, PreferencesConfig),
        f"preparation must be preferences or null, got {config.preparation!r}: choose it with preparation=preferences",
    )
    require(config.task is not None, "task must be chosen: task=arithmetic, or task=jsonl task.path=problems.jsonl")
    return config
