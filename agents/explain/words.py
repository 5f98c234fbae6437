"""The iteration, the run, the learning rates, the examinations and the reward, in lines for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agents.config import TrainConfig
from agents.explain.algebra import Algebra, count
from agents.optim import OptimConfig, decayed
from rewards.combine import Part
from rewards.execution import execution_of
from rewards.workers import default_workers


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
    whose = ""
    if a.natural_steps:
        c: Any = config.agent
        lines.append(
            f"policy: one step with all of them, as far as a KL of {c.max_kl:g} nats a token allows, in up to "
            f"{count(c.conjugate_gradient_steps, 'conjugate gradient step')} and {c.line_search_steps} lengths to try"
        )
        whose = "critic: "
    lines += [
        f"{whose}{count(a.epochs, 'epoch')} x {count(a.minibatches, 'minibatch', 'minibatches')} = "
        f"{count(a.epochs * a.minibatches, 'optimizer step')}",
        f"{whose}each step sees {'all' if a.minibatches == 1 else 'up to'} {count(a.minibatch_rows, 'sequence')} "
        f"({count(a.minibatch_groups, 'whole group')}), at most {count(a.minibatch_rows * a.max_new_tokens, 'token')}"
        f"{after_the_first(a)}",
        f"forwarded in pieces of at most {config.agent.optim.microbatch_tokens:,} packed tokens: memory, never results",
    ]
    return lines


def after_the_first(algebra: Algebra) -> str:
    """What the ratio is; the critic has none."""
    if algebra.natural_steps:
        return ""
    if algebra.steps == 1:
        return "; the ratio is exactly 1"
    return "; the ratio is 1 in the first, then new over old policy"


def resampling_lines(agent: Any, algebra: Algebra) -> list[str]:
    """What dynamic sampling may add."""
    rounds = getattr(agent, "resample_rounds", 0)
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
        f"{count(num_problems, 'problem')} to train on: {passes:,.{2 if passes < 10 else 0}f} passes over them",
    ]
    if warmup := getattr(config.agent, "critic_warmup", 0):
        lines.append(f"in the first {count(warmup, 'iteration')} only the critic learns (agent.critic_warmup)")
    for name, unit in (("max_seconds", "seconds of training"), ("max_tokens", "generated tokens")):
        if (limit := getattr(config, name)) is not None:
            lines.append(f"ends earlier after {limit:,} {unit} ({name})")
    return lines


def rate_lines(optim: OptimConfig, algebra: Algebra, *, critic: bool) -> list[str]:
    """The schedules in words."""
    words = rate_in_words(optim.learning_rate, optim.decay, optim, algebra)
    if not critic:
        return [words]
    if algebra.natural_steps:
        words = "none, agent.max_kl sets the length of its steps"
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
