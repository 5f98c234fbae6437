"""All of it, told in order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from agents.config import TrainConfig
from agents.explain.algebra import Algebra
from agents.explain.holdings import memory_lines, model_lines
from agents.explain.words import examination_lines, iteration_lines, part_lines, rate_lines, run_lines
from agents.setup import build_environments, tokenizer_of
from rewards.preference.card import CARD

Say = Callable[[str], None]
FLAG = "--explain"


def as_setting(arguments: list[str]) -> list[str]:
    """The command line with `--explain` in the words of Hydra, which knows no flags of ours.

    >>> as_setting(["agent=ppo", "--explain"])
    ['agent=ppo', 'explain=true']
    """
    return ["explain=true" if argument == FLAG else argument for argument in arguments]


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
        f"{own.judgements:,} rankings of {own.responses} completions by {own.truth!r} ({output})"
        for name, part in config.reward.items()
        if name not in parts
    ]
    return replace(config, reward=parts or None), lines
