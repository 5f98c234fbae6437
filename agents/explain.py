"""What a run will do, before anything is loaded: `python -m agents.train ... --explain`.

The batch algebra from prompts to optimizer steps, who is held in memory and how much that takes, the learning rates in
words, what is examined, and what is rewarded where. The environments are built, since they know the lengths and find
mistakes; no weight is read and no folder is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.config import TrainConfig
from agents.memory import ModelSize, activations, fixed_parts, free_bytes, plan
from agents.memory import Plan as MemoryPlan
from agents.optim import OptimConfig, decayed
from agents.policy.hardware import pick_device
from agents.policy.loading import TINY
from agents.setup import Environments, adapter_parameters, build_environments, demand_of, model_shape, tokenizer_of
from rewards.combine import Part
from rewards.execution import execution_of
from rewards.preference.card import CARD
from rewards.preference.scoring import RewardModel
from rewards.workers import default_workers

Say = Callable[[str], None]
FLAG = "--explain"


def as_setting(arguments: list[str]) -> list[str]:
    """The command line with `--explain` in the words of Hydra, which knows no flags of ours.

    >>> as_setting(["agent=ppo", "--explain"])
    ['agent=ppo', 'explain=true']
    """
    return ["explain=true" if argument == FLAG else argument for argument in arguments]


@dataclass(frozen=True, slots=True)
class Algebra:
    """How an iteration's prompts become optimizer steps."""

    prompts: int
    group_size: int
    max_new_tokens: int
    rows: int
    """Of the environment."""
    propose_tokens: int
    epochs: int
    minibatches: int
    """In an epoch."""
    minibatch_groups: int
    """In the largest of them."""
    iterations: int

    @staticmethod
    def of(config: TrainConfig) -> Algebra:
        """Of a run's settings; minibatches take whole groups until they have their rows."""
        agent, optim = config.agent, config.agent.optim
        sequences = agent.prompts * agent.group_size
        groups = agent.prompts
        if optim.minibatch_rows is not None:
            groups = min(groups, -(-optim.minibatch_rows // agent.group_size))
        return Algebra(
            prompts=agent.prompts,
            group_size=agent.group_size,
            max_new_tokens=config.env.max_new_tokens,
            rows=min(config.env.rows or sequences, sequences),
            propose_tokens=config.env.propose_tokens,
            epochs=optim.epochs,
            minibatches=-(-agent.prompts // groups),
            minibatch_groups=groups,
            iterations=config.iterations,
        )

    @property
    def sequences(self) -> int:
        return self.prompts * self.group_size

    @property
    def tokens(self) -> int:
        """At most, in an iteration."""
        return self.sequences * self.max_new_tokens

    @property
    def waves(self) -> int:
        """How often each row is used, at least."""
        return -(-self.sequences // self.rows)

    @property
    def rounds(self) -> int:
        """Proposals that a full completion takes."""
        return -(-self.max_new_tokens // self.propose_tokens)

    @property
    def minibatch_rows(self) -> int:
        return self.minibatch_groups * self.group_size

    @property
    def steps(self) -> int:
        """Optimizer steps an iteration."""
        return self.epochs * self.minibatches


def explain(config: TrainConfig, say: Say = print) -> None:
    """Tell all of it. Raises `ValueError` for what a run would refuse, too little memory last."""
    prepared, later = without_unprepared(config)
    with closing(build_environments(prepared, tokenizer_of(config.policy, say))) as envs:
        algebra = Algebra.of(config)
        say(
            f"{config.agent.name} on {envs.train.task.name}, {config.policy.model}. Nothing is loaded, "
            "nothing is trained."
        )
        sections = {
            "An iteration": iteration_lines(config, algebra),
            "The run": run_lines(config, algebra, envs.train.num_problems),
            "Learning rate": rate_lines(config.agent.optim, algebra, critic=config.agent.critic != "none"),
            "Held-out problems": examination_lines(config, min(config.evaluation.problems, envs.test.num_problems)),
            "Reward": [*later, *part_lines(envs.train.reward_parts, config)],
            "In memory": model_lines(config, envs, untrained=len(later)),
        }
        for title, lines in sections.items():
            say(f"\n{title}")
            for line in lines:
                say(f"  {line}")
        memory, planned = memory_lines(config, envs)
        for line in memory:
            say(f"  {line}")
        planned()


def without_unprepared(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """The run without the parts of its reward that its preparation has yet to make, and a line for each of them."""
    own = config.preparation
    if own is None or (Path(own.reward_model.output) / CARD).is_file():
        return config, []
    output = own.reward_model.output
    parts = {name: part for name, part in config.reward.items() if (part.get("fn") or {}).get("path") != output}
    lines = [
        f"{name}: weight {part.get('weight', 1.0):g}, a reward model that is trained beforehand, on "
        f"{own.judgements:,} rankings "
        f"of {own.responses} completions by {own.truth!r} ({output})"
        for name, part in config.reward.items()
        if name not in parts
    ]
    return replace(config, reward=parts or None), lines


def iteration_lines(config: TrainConfig, algebra: Algebra) -> list[str]:
    """From prompts to optimizer steps."""
    a = algebra
    lines = [
        f"{count(a.prompts, 'prompt')} x {count(a.group_size, 'completion')} = "
        f"{count(a.sequences, 'sequence')} of at most "
        f"{count(a.max_new_tokens, 'token')} = {count(a.tokens, 'token')}",
        f"played in {count(a.rows, 'row')} of the environment, {count(a.waves, 'wave')}; a full completion takes "
        f"{count(a.rounds, 'proposal')} of up to {count(a.propose_tokens, 'token')}: speed and memory, never results",
    ]
    lines += resampling_lines(config.agent, a)
    lines += [
        f"{count(a.epochs, 'epoch')} x {count(a.minibatches, 'minibatch', 'minibatches')} = "
        f"{count(a.steps, 'optimizer step')}",
        f"each step sees {'all' if a.minibatches == 1 else 'up to'} {count(a.minibatch_rows, 'sequence')} "
        f"({count(a.minibatch_groups, 'whole group')}), at most {count(a.minibatch_rows * a.max_new_tokens, 'token')}"
        f"{after_the_first(a)}",
        f"forwarded in pieces of at most {config.agent.optim.microbatch_tokens:,} packed tokens: memory, never results",
    ]
    return lines


def after_the_first(algebra: Algebra) -> str:
    """What the ratio is."""
    if algebra.steps == 1:
        return "; the ratio is exactly 1"
    return "; the ratio is 1 in the first, then new over old policy"


def resampling_lines(agent: Any, algebra: Algebra) -> list[str]:
    """What dynamic sampling may add."""
    rounds = getattr(agent, "dynamic_sampling_rounds", 0)
    if not rounds:
        return []
    return [
        f"groups without variance are replaced in up to {count(rounds, 'further round')}: at most "
        f"{count((1 + rounds) * algebra.tokens, 'token')} are generated"
    ]


def run_lines(config: TrainConfig, algebra: Algebra, num_problems: int) -> list[str]:
    """All iterations."""
    a, n = algebra, algebra.iterations
    passes = n * a.prompts / num_problems
    lines = [
        f"{count(n, 'iteration')} x {count(a.steps, 'optimizer step')} = {count(n * a.steps, 'optimizer step')}; "
        f"{count(n * a.sequences, 'sequence')}, at most {count(n * a.tokens, 'token')}",
        f"{count(num_problems, 'problem')} to train on: {passes:.2g} passes over them",
    ]
    for name, unit in (("max_seconds", "seconds of training"), ("max_tokens", "generated tokens")):
        if (limit := getattr(config, name)) is not None:
            lines.append(f"ends earlier after {limit:,} {unit} ({name})")
    return lines


def rate_lines(optim: OptimConfig, algebra: Algebra, *, critic: bool) -> list[str]:
    """The schedules in words."""
    words = rate_in_words(optim.learning_rate, optim.decay, optim, algebra)
    if not critic:
        return [words]
    rate = optim.learning_rate if optim.critic_learning_rate is None else optim.critic_learning_rate
    return [f"policy: {words}", f"critic: {rate_in_words(rate, optim.critic_decay or optim.decay, optim, algebra)}"]


def rate_in_words(rate: float, decay: str, optim: OptimConfig, algebra: Algebra) -> str:
    """How a learning rate rises, stays and falls."""
    iterations, words = algebra.iterations, []
    if optim.warmup_steps:
        first = rate / (optim.warmup_steps + 1)
        words.append(
            f"begins at {first:.2g} and rises to {rate:.2g} over {count(optim.warmup_steps, 'optimizer step')}"
        )
    else:
        words.append(f"{rate:.2g} from the first step")
    if decay == "constant":
        return f"{words[0]}, and stays there"
    # Iteration u (from 0) has decayed by 1 - (1 - u / iterations) / share.
    first_lower = math.floor(iterations * (1 - optim.decay_share) + 1e-9) + 2
    last = rate * decayed(decay, 1 - 1 / iterations / optim.decay_share)
    shape = "linearly" if decay == "linear" else "as a cosine"
    if first_lower > iterations:
        return f"{words[0]}, and stays there"
    return f"{words[0]}, falls {shape} from iteration {first_lower} on, to {last:.2g} in iteration {iterations}"


def examination_lines(config: TrainConfig, num_problems: int) -> list[str]:
    """How often held-out problems are answered, and what that costs."""
    c = config.evaluation
    during = config.iterations // c.every if c.every else 0
    answers = (2 * (1 + c.samples) + during) * num_problems
    sampled = f" and {count(c.samples, 'sampled one')} (pass@k)" if c.samples else ""
    between = (
        f"every {count(c.every, 'iteration')}, {during} times, the greedy one alone" if during else "not in between"
    )
    return [
        f"{count(num_problems, 'problem')}: before and after with a greedy completion each{sampled}; {between}",
        f"{count(answers, 'completion')} in all, at most "
        f"{count(answers * config.env.max_new_tokens, 'token')}, beside those "
        "of training",
    ]


def part_lines(parts: Mapping[str, Part], config: TrainConfig) -> list[str]:
    """What is rewarded, how much, and where that is computed."""
    lines = []
    for name, part in parts.items():
        share = (
            "multiplies the others"
            if part.gate
            else f"weight {part.weight:g}" + (", only watched" * (part.weight == 0))
        )
        if execution_of(part) == "process":
            limit = config.env.timeout_seconds if part.timeout_seconds is None else part.timeout_seconds
            workers = config.env.reward_workers or default_workers()
            where = f"in {count(workers, 'killable worker')}, at most {limit:g} s a call"
        else:
            where = "in the trainer"
        lines.append(f"{name}: {share}, {where}")
    when = "while other rows decode" if config.env.scoring == "deferred" else "in the step that ends an episode"
    return [*lines, f"computed {when} (env.scoring={config.env.scoring})"]


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
            f"{trained + hidden + 1:,} "
            "trained, value head included"
        )
    if agent.needs_reference:
        own = adapter is None
        sets += own
        lines.append(f"reference: {'a frozen copy of the actor' if own else 'the same weights without the adapter'}")
    for name, part in envs.train.reward_parts.items():
        if (what := holds_model(part.fn)) is not None:
            sets += 1
            lines.append(f"reward {name}: {what}")
    if untrained:
        sets += untrained
        lines.append(f"reward: {count(untrained, 'reward model')} of the preparation's")
    return [*lines, f"{count(sets, 'set')} of language-model weights in all"]


def holds_model(fn: Any) -> str | None:
    """What model a reward loads into this process; None where it needs none."""
    if isinstance(fn, RewardModel):
        return f"a reward model ({fn.path})"
    backend: Any = getattr(fn, "backend", None)
    return f"a judge ({backend.model})" if type(backend).__name__ == "LocalModel" else None


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


def count(number: int, noun: str, nouns: str | None = None) -> str:
    """A number and its noun.

    >>> count(1, "wave"), count(4608, "token")
    ('1 wave', '4,608 tokens')
    """
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"
