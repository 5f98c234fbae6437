"""Who is held in memory, and how much that takes."""

from __future__ import annotations

from collections.abc import Callable

from agents.config import TrainConfig
from agents.explain.algebra import count
from agents.memory import ModelSize, activations, fixed_parts, free_bytes, plan
from agents.memory import Plan as MemoryPlan
from agents.policy.hardware import pick_device
from agents.policy.loading import TINY
from agents.reward_memory import held_models
from agents.setup import Environments, adapter_parameters, demand_of, model_shape


def model_lines(config: TrainConfig, envs: Environments, *, untrained: int = 0) -> list[str]:
    """Who is held: actor, critic, reference, reward models, and how many sets of weights that is. `untrained`: reward
    models that the preparation makes."""
    agent, adapter = config.agent, config.policy.adapter
    shape = model_shape(config.policy, len(envs.train.tokenizer))
    weights, hidden = ModelSize.of(shape).num_parameters, ModelSize.of(shape).hidden_size
    trained = weights if adapter is None else adapter_parameters(shape, adapter)
    under = "" if adapter is None else f" under an adapter of rank {adapter.rank}"
    lines = [f"actor: {config.policy.model}, {weights:,} weights{under}, {trained:,} of them trained"]
    sets = 1
    if agent.critic == "shared":
        lines.append(f"critic: a value head on the actor's hidden states, {hidden + 1:,} weights")
    elif agent.critic == "separate":
        own = adapter is None
        sets += own
        lines.append(
            f"critic: {'a second model' if own else 'the same weights under an adapter of its own'}, "
            f"{trained + hidden + 1:,} trained, value head included"
        )
    if agent.needs_reference:
        own = adapter is None
        sets += own
        every = getattr(agent, "reference_every", None)
        renewed = f", renewed every {count(every, 'iteration')}" if every else ""
        what = "a frozen copy of the actor" if own else "the same weights without the adapter"
        lines.append(f"reference: {what}{renewed}")
    for name, held in held_models(envs.train.reward_parts).items():
        sets += 1
        size = "of unknown size" if held.num_bytes is None else readable(held.num_bytes)
        lines.append(f"reward {name}: {held.what}, {size} on {held.device.type}")
    if untrained:
        sets += untrained
        lines.append(f"reward: {count(untrained, 'reward model')} of the preparation's, not in the sum below")
    return [*lines, f"{count(sets, 'set')} of language-model weights in all"]


def memory_lines(config: TrainConfig, envs: Environments) -> tuple[list[str], Callable[[], MemoryPlan | None]]:
    """The estimate, part by part; and what to call last, which raises where the run does not fit."""
    device = pick_device(config.policy.device)
    shape = model_shape(config.policy, len(envs.train.tokenizer))
    num_rows = max(envs.train.num_envs, envs.test.num_envs)
    size, demand = ModelSize.of(shape), demand_of(config, envs.train, num_rows, device, shape)
    wanted = MemoryPlan(num_rows, demand.microbatch_tokens, bool(demand.checkpoint_activations))
    parts = fixed_parts(size, demand)
    parts[f"activations of {demand.microbatch_tokens:,} tokens"] = activations(size, demand, wanted)
    parts[f"keys and values of {num_rows:,} rows of {demand.num_columns:,} tokens"] = size.cache_bytes(
        num_rows, demand.num_columns, demand.dtype
    )
    free = None if config.policy.model == TINY else free_bytes(device)
    known = "" if free is None else f", {readable(free)} are free"
    lines = [f"{name}: {readable(number)}" for name, number in parts.items() if number]
    lines.append(
        f"about {readable(sum(parts.values()))} on {device.type} in {str(demand.dtype).removeprefix('torch.')}{known}"
    )
    if free is None:
        return lines, lambda: None
    try:
        if changes := plan(size, demand, free).changes:
            lines.append(f"short of memory: the same results, more slowly, with {', '.join(changes)}")
    except ValueError:
        pass  # said last, as the error that it is
    return lines, lambda: plan(size, demand, free)


def readable(number: int) -> str:
    """Bytes as people read them.

    >>> readable(1_234_567_890), readable(5_400_000), readable(800)
    ('1.2 GB', '5.4 MB', '0.8 kB')
    """
    for factor, unit in ((1e9, "GB"), (1e6, "MB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"
