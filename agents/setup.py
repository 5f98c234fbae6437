"""From a configuration to the objects of a run: environments first, because they need no weights and find mistakes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from agents.config import EnvConfig, PolicyConfig, TrainConfig
from agents.grpo import GRPO, GRPOConfig
from agents.memory import LOGIT_BYTES, Demand, ModelSize, Plan, plan
from agents.optim import Optimizer
from agents.policy import LanguageModel, Policy, Sampling, ValueHead
from agents.policy.hardware import pick_device, pick_dtype
from agents.policy.loading import TINY, load_model, resolve, tiny_model, tiny_shape
from agents.policy.lora import NAME, adapt, sharing_weights, without_adapter
from agents.ppo import PPO, PPOConfig
from agents.reward_memory import held_bytes
from agents.trpo import TRPO, TRPOConfig
from rewards.preference.lora import LoraConfig, targeted
from textenv import Task, TextVectorEnv
from textenv.tasks import load_task

Say = Callable[[str], None]
Agent = GRPO | PPO | TRPO
RUN_ONLY = ("rows", "propose_tokens")


@dataclass(frozen=True, slots=True)
class Environments:
    """One to learn in and one to be examined in. They share the task; the latter pays the task's own reward."""

    train: TextVectorEnv
    test: TextVectorEnv

    def close(self) -> None:
        self.train.close()
        self.test.close()


def build_task(spec: Any) -> Task:
    """The task that `spec` describes (see `textenv.tasks.load_task`)."""
    return load_task(spec)


def build_reward(spec: Any) -> Any:
    """The parts of a reward, instantiated; None for the task's own. Raises `ValueError` for what cannot be imported."""
    try:
        return None if spec is None else instantiate(spec, _convert_="all")
    except (InstantiationException, ImportError) as error:
        raise ValueError(f"reward cannot be built: {' '.join(str(error).split())}") from error


def build_environments(config: TrainConfig, tokenizer: str | None) -> Environments:
    """Both environments. Raises `ValueError` for a reward that asks for a column the task lacks, and the like."""
    task = build_task(config.task)
    reward = build_reward(config.reward)
    num_rows = config.agent.prompts * config.agent.group_size
    train = build_env(config.env, task, reward, tokenizer, num_rows, "train")
    num_test = min(config.evaluation.problems, len(task.split("test")))
    return Environments(train, build_env(config.env, task, own_reward(task, reward), tokenizer, num_test, "test"))


def own_reward(task: Task, reward: Any) -> Any:
    """What a task is examined by: its own reward; for problems of the user's (`examines` False) that of the run."""
    return None if reward is None or getattr(task, "examines", True) else reward


def build_env(
    config: EnvConfig, task: Task, reward: Any, tokenizer: Any, num_episodes: int, split: str
) -> TextVectorEnv:
    """An environment for waves of `num_episodes`: a row each, or fewer rows that take one after the other."""
    num_rows = min(config.rows or num_episodes, num_episodes)
    mode = AutoresetMode.DISABLED if num_rows == num_episodes else AutoresetMode.NEXT_STEP
    settings = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in RUN_ONLY}
    return TextVectorEnv(
        num_rows, autoreset_mode=mode, task=task, reward=reward, tokenizer=tokenizer, split=split, **settings
    )


def tokenizer_of(config: PolicyConfig, say: Say = print) -> str | None:
    """The tokenizer that belongs to the model; None lets the task bring its own (for a random model)."""
    return None if config.model == TINY else resolve(config.model, say)


def check_context(config: PolicyConfig, env: TextVectorEnv) -> None:
    """Raise `ValueError`, before any weight is loaded, when the model has fewer positions than an episode may need."""
    if config.model == TINY:
        positions: int | None = config.tiny.max_tokens
    else:
        positions = positions_of(AutoConfig.from_pretrained(resolve(config.model)))
    width = env.single_observation_space["tokens"].shape[0]  # type: ignore[index]
    if positions is not None and width > positions:
        raise ValueError(
            f"env.max_new_tokens and the longest prompt need {width} positions, but policy.model={config.model} has "
            f"{positions}: lower env.max_new_tokens or env.max_prompt_tokens"
        )


def positions_of(shape: PretrainedConfig) -> int | None:
    """How many positions a model has, None where it does not say.

    Of two sets of angles (`longrope`) only the first counts: transformers takes the second one for all rows as soon as
    one of them is longer, so what a row means would depend on its neighbours.
    """
    text = shape.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return rope.get("original_max_position_embeddings")
    return getattr(text, "max_position_embeddings", None)


def check_adapter(config: PolicyConfig) -> None:
    """Raise `ValueError`, before any weight is loaded, for a target of the adapter that the model does not have."""
    if config.adapter is None:
        return
    shape = tiny_shape(1, config.tiny) if config.model == TINY else AutoConfig.from_pretrained(resolve(config.model))
    adapter_parameters(shape, config.adapter)


def adapter_parameters(shape: PretrainedConfig, adapter: LoraConfig) -> int:
    """How many weights an adapter has. Raises `ValueError` for a target that the model does not have."""
    with torch.device("meta"):  # the modules and their names, without weights
        layers = targeted(AutoModelForCausalLM.from_config(shape), adapter, name=NAME)
    shapes = [layer.get_parameter("weight").shape for layer in layers.values()]
    return sum(adapter.rank * (rows + columns) for rows, columns in shapes)


def fit_into_memory(
    config: TrainConfig, env: TextVectorEnv, num_rows: int, device: torch.device, free: int | None
) -> Plan | None:
    """How the run fits into `free` bytes; None for a random tiny model, which always does. Raises `ValueError` with the
    arithmetic where it does not."""
    if config.policy.model == TINY:
        return None
    shape = model_shape(config.policy, len(env.tokenizer))
    return plan(ModelSize.of(shape), demand_of(config, env, num_rows, device, shape), free)


def model_shape(config: PolicyConfig, vocabulary: int) -> PretrainedConfig:
    """The shape of the language model, without its weights."""
    if config.model == TINY:
        return tiny_shape(vocabulary, config.tiny)
    return AutoConfig.from_pretrained(resolve(config.model))


def demand_of(
    config: TrainConfig, env: TextVectorEnv, num_rows: int, device: torch.device, shape: PretrainedConfig
) -> Demand:
    """What the run asks of memory."""
    agent, adapter = config.agent, config.policy.adapter
    return Demand(
        num_rows=num_rows,
        num_columns=env.single_observation_space["tokens"].shape[0],  # type: ignore[index]
        microbatch_tokens=agent.optim.microbatch_tokens,
        dtype=training_dtype(config, device),
        trained_models=2 if agent.critic == "separate" else 1,
        adapter_parameters=None if adapter is None else adapter_parameters(shape, adapter),
        frozen_models=int(agent.needs_reference and adapter is None),
        reward_bytes=held_bytes(env.reward_parts, device),
        natural_gradient=isinstance(agent, TRPOConfig),
        checkpoint_activations=agent.optim.checkpoint_activations,
        keeps_scores=device.type == "cpu",
        logit_bytes=logit_bytes(config),
    )


def logit_bytes(config: TrainConfig) -> int | None:
    """What an update needs for each of a chunk's logits; None where it asks for log-probabilities alone."""
    agent, sampling = config.agent, sampling_of(config.policy)
    if sampling.top_k or sampling.top_p < 1:
        return LOGIT_BYTES["restricted"]
    with_entropy = not isinstance(agent, TRPOConfig) and agent.entropy().wants_entropy
    exact_kl = agent.needs_reference and agent.kl_kind == "full"
    return LOGIT_BYTES["over the vocabulary"] if with_entropy or exact_kl else None


def sampling_of(config: PolicyConfig) -> Sampling:
    """The distribution that the policy acts with."""
    return Sampling(config.temperature, config.top_k, config.top_p)


def build_model(config: PolicyConfig, vocabulary: int, device: torch.device, seed: int, say: Say) -> LanguageModel:
    """The language model in float32."""
    if config.model == TINY:
        return tiny_model(vocabulary, config.tiny, seed=seed, device=device)
    return load_model(resolve(config.model, say), device=device)


def build_policy(config: TrainConfig, vocabulary: int, say: Say = print) -> Policy:
    """The policy in float32, with the critic that the agent asks for, and adapters where the settings ask for one."""
    device = pick_device(config.policy.device)
    model = build_model(config.policy, vocabulary, device, config.seed, say)
    if config.agent.optim.checkpoint_activations:
        model.checkpoint_activations()
    critic, adapter = config.agent.critic, config.policy.adapter
    critic_model = None
    if critic == "separate":
        critic_model = copy.deepcopy(model) if adapter is None else sharing_weights(model)
    if adapter is not None:
        total = sum(p.numel() for p in model.parameters())
        count = adapt(model, adapter, seed=config.seed)
        if critic_model is not None:
            adapt(critic_model, adapter, seed=config.seed + 1)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        say(f"An adapter of rank {adapter.rank} on {count} layers: {trained:,} weights are trained, {total:,} frozen")
    return Policy(
        model,
        num_actions=vocabulary,
        sampling=sampling_of(config.policy),
        critic_model=critic_model,
        value_head=None if critic == "none" else ValueHead(model.hidden_size, device),
        value_gradient=getattr(config.agent, "value_gradient", True),
    )


def build_agent(config: TrainConfig, policy: Policy) -> Agent:
    """The agent around `policy`, whose parameters take the run's number format, with a reference if it needs one.

    The reference is a frozen copy; under an adapter it is the policy's own weights without the adapter.
    """
    dtype = training_dtype(config, policy.device)
    reference = None
    if config.agent.needs_reference:
        reference = frozen_copy(policy, dtype) if config.policy.adapter is None else unadapted(policy)
    optimizer = Optimizer(policy, config.agent.optim, total_iterations=config.iterations, seed=config.seed, dtype=dtype)
    if isinstance(config.agent, GRPOConfig):
        return GRPO(config.agent, policy, optimizer, reference)
    if isinstance(config.agent, PPOConfig):
        return PPO(config.agent, policy, optimizer, reference)
    return TRPO(config.agent, policy, optimizer, reference)


def training_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """The number format of the run; TRPO always takes float32."""
    return torch.float32 if isinstance(config.agent, TRPOConfig) else pick_dtype(config.policy.precision, device)


def frozen_copy(policy: Policy, dtype: torch.dtype) -> Policy:
    """The policy as it is now, without a critic, that nothing will train."""
    model = copy.deepcopy(policy.model).requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return Policy(model, num_actions=policy.num_actions, sampling=policy.sampling)


def unadapted(policy: Policy) -> Policy:
    """The policy before any training: its weights without its adapter, and without a critic."""
    return Policy(without_adapter(policy.model), num_actions=policy.num_actions, sampling=policy.sampling)
