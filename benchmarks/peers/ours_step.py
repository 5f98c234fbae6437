"""A worker: whole iterations of our GRPO or PPO, as `agents.train` runs them.

Settings (JSON): `model` folder, `device`, `precision`, `agent`, of PPO `critic` and `kl_coef`, `prompts` (texts),
`num_prompts` and `group` a step, `new` tokens, `epochs`, `steps`, `learning_rate`, `seed`. No token ends an episode:
every completion has exactly `new` tokens.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode
from measuring import finish, peak_memory_gb, settings, text_value

from agents.config import EnvConfig, PolicyConfig, TrainConfig
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.policy.heap import keep_freed_memory
from agents.ppo import PPOConfig
from agents.run import Run
from agents.run_folder import RunFolder
from agents.setup import Environments, build_policy
from textenv import TextVectorEnv
from textenv.tasks.text import Problems
from textenv.tokenizer import load_tokenizer


def reward(completion: str) -> float:
    """The peers' reward."""
    return text_value(completion)


def build_config(asked: dict[str, Any]) -> TrainConfig:
    """The agents' defaults, but for what both sides are given."""
    optim = OptimConfig(learning_rate=asked["learning_rate"], epochs=asked["epochs"])
    shape = {"prompts": asked["num_prompts"], "group_size": asked["group"], "optim": optim}
    if asked["agent"] == "grpo":
        agent: Any = GRPOConfig(**shape)
    else:
        agent = PPOConfig(**shape, critic=asked["critic"], kl_coef=asked["kl_coef"])
    return TrainConfig(
        agent=agent,
        policy=PolicyConfig(model=asked["model"], device=asked["device"], precision=asked["precision"]),
        env=EnvConfig(max_new_tokens=asked["new"]),
        iterations=asked["steps"],
        seed=asked["seed"],
    )


def build_env(asked: dict[str, Any]) -> TextVectorEnv:
    """Plain prompts, a row a completion, and no end but the budget."""
    tokenizer = load_tokenizer(asked["model"])
    tokenizer.end_ids = frozenset()
    return TextVectorEnv(
        asked["num_prompts"] * asked["group"],
        autoreset_mode=AutoresetMode.DISABLED,
        task=Problems(asked["prompts"], reward={"text": {"fn": reward, "execution": "inline"}}),
        tokenizer=tokenizer,
        max_new_tokens=asked["new"],
        chat=False,
    )


def main() -> None:
    """Iterate, measure, print."""
    asked = settings()
    keep_freed_memory()
    config, env = build_config(asked), build_env(asked)
    with tempfile.TemporaryDirectory() as folder:
        policy = build_policy(config, len(env.tokenizer), lambda _: None)
        run = Run(config, RunFolder(Path(folder)), Environments(env, env), policy)
        steps = [step(run) for _ in range(asked["steps"])]
    env.close()
    finish(steps=steps, peak_memory_gb=peak_memory_gb(asked["device"]))


def step(run: Run) -> dict[str, float]:
    """Seconds of one iteration."""
    before = run.counters.num_tokens
    metrics, _ = run.iterate()
    return {
        "seconds": metrics["time/seconds"],
        "collect": metrics["time/collect"],
        "update": metrics["time/update"],
        "tokens": run.counters.num_tokens - before,
    }


if __name__ == "__main__":
    main()
