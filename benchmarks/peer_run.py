"""A peer's training run on exactly what ours trains on: prompts, answers, learning rates and held-out problems.

They are taken from the composed settings of `agents.train`, with the environment's own prompts, and handed over as
text; what the peer reads is checked against the environment's tokens. The main job's reward is the only one known.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf.errors import OmegaConfBaseException

from agents.config import TrainConfig, register, typed
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig, decayed
from agents.policy import Sampling
from agents.policy.hardware import pick_device, pick_dtype
from agents.policy.loading import TINY
from agents.run import next_problems
from agents.saved import CONF
from agents.setup import build_environments, tokenizer_of
from benchmarks.shapes import model_folder
from rewards.math import LastInteger
from textenv import TextVectorEnv
from textenv.tokenizer import load_tokenizer

CHECKED_PROMPTS = 64


def compose_run(seed: int, overrides: Sequence[str]) -> TrainConfig:
    """What `agents.train agent=grpo seed=... <overrides>` would run. Raises `ValueError` for what it would refuse."""
    register()
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            return typed(compose("train", overrides=["agent=grpo", f"seed={seed}", *overrides]))
    except OmegaConfBaseException as error:
        raise ValueError(str(error)) from error


def learning_rates(optim: OptimConfig, iterations: int) -> list[float]:
    """Of each iteration when it takes one optimizer step: warm-up, then held, then decayed to 0 at the end.

    >>> learning_rates(OptimConfig(1.0, warmup_steps=1, decay="linear", decay_share=0.5), 4)
    [0.5, 1.0, 1.0, 0.5]
    """
    rates = []
    for step in range(iterations):
        warm = min(1.0, (step + 1) / (optim.warmup_steps + 1))
        left = 1 - step / iterations
        rates.append(optim.learning_rate * warm * decayed(optim.decay, 1 - left / optim.decay_share))
    return rates


def peer_settings(config: TrainConfig, *, micro_batch: int) -> dict[str, Any]:
    """The settings of `peers/trl_grpo.py` for the run that `config` describes; what belongs to a place is left out.

    Raises `ValueError` where the peer cannot do the same: another reward, several steps an iteration, top-k and the
    like.
    """
    agent = config.agent
    require_plain(config)
    if config.policy.model == TINY:
        raise ValueError(f"policy.model must have a tokenizer that the peer can read, {TINY} has none")
    folder = model_folder(config.policy.model)
    device = pick_device(config.policy.device)
    envs = build_environments(config, tokenizer_of(config.policy))
    try:
        if not all(isinstance(part, LastInteger) for part in envs.train.task.reward().values()):
            raise ValueError(f"task must be rewarded by its last integer, {envs.train.task.name} is not")
        stream = np.concatenate(
            [
                next_problems(envs.train.num_problems, i * agent.prompts, agent.prompts, config.seed)
                for i in range(config.iterations)
            ]
        )
        held_out = np.arange(min(config.evaluation.problems, envs.test.num_problems))
        prompts = prompt_tokens(envs.train, stream)
        tokenizer = load_tokenizer(str(folder))
        return {
            "model": str(folder),
            "device": device.type,
            "bfloat16": str(pick_dtype(config.policy.precision, device)) == "torch.bfloat16",
            "prompts": [tokenizer.decode(ids, skip_special=False) for ids in prompts],
            "prompt_ids": prompts[:CHECKED_PROMPTS],
            "end_ids": sorted(envs.train.stop_spec.end_ids),
            "answers": answers(envs.train, "train", stream),
            "group": agent.group_size,
            "completions": agent.prompts * agent.group_size,
            "micro_batch": micro_batch,
            "new": config.env.max_new_tokens,
            "fixed_length": False,
            "learning_rates": learning_rates(agent.optim, config.iterations),
            "temperature": config.policy.temperature,
            "seed": config.seed,
            "held_out": {
                "prompts": [tokenizer.decode(ids, skip_special=False) for ids in prompt_tokens(envs.test, held_out)],
                "answers": answers(envs.test, "test", held_out),
            },
        }
    finally:
        envs.close()


def require_plain(config: TrainConfig) -> None:
    """Raise `ValueError` for settings that mean something else, or nothing, to the peer."""
    agent, optim = config.agent, config.agent.optim
    plain = GRPOConfig()
    rules = {
        "reward": (config.reward, None),
        "policy.top_k, policy.top_p": (
            Sampling(config.policy.temperature, config.policy.top_k, config.policy.top_p),
            Sampling(config.policy.temperature),
        ),
        "env.stop_strings": (list(config.env.stop_strings), []),
        "agent.optim.epochs": (optim.epochs, 1),
        "agent.optim.minibatch_rows": (optim.minibatch_rows, None),
        "agent.optim.aggregation": (optim.aggregation, "token_mean"),
        "agent.optim.max_grad_norm": (optim.max_grad_norm, 1.0),
        "agent.optim.weight_decay": (optim.weight_decay, 0.0),
        "agent.optim.betas": (list(optim.betas), [0.9, 0.999]),
    }
    for name in ("kl_coef", "entropy_coef", "scale_advantages", "clip_low", "clip_high"):
        rules[f"agent.{name}"] = (getattr(agent, name), getattr(plain, name))
    for name, (value, known) in rules.items():
        if value != known:
            raise ValueError(f"{name} must be {known} to be compared, got {value}")


def prompt_tokens(env: TextVectorEnv, problems: np.ndarray) -> list[list[int]]:
    """The tokens that the environment shows for each problem."""
    tokens: list[list[int]] = []
    for start in range(0, len(problems), env.num_envs):
        part = problems[start : start + env.num_envs]
        filled = np.resize(part, env.num_envs)
        observation: Any = env.reset(options={"indices": filled})[0]
        lengths = observation["prompt_length"][: len(part), 0].tolist()
        tokens += [row[:n].tolist() for row, n in zip(observation["tokens"], lengths, strict=False)]
    return tokens


def answers(env: TextVectorEnv, split: str, problems: np.ndarray) -> list[int]:
    """What the reward compares with."""
    rows = env.task.split(split)
    return [int(rows[int(i)].row["answer"]) for i in problems]


def read_points(path: Path) -> list[dict[str, float]]:
    """The examinations that a worker has written so far; a line that is still being written is left out."""
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


@contextmanager
def told(path: Path, say: Callable[[dict[str, float]], None], seconds: float = 2.0) -> Iterator[None]:
    """Say each examination soon after it is written."""
    over, count = threading.Event(), 0

    def look() -> None:
        nonlocal count
        points = read_points(path)
        for point in points[count:]:
            say(point)
        count = len(points)

    def follow() -> None:
        while not over.wait(seconds):
            look()
        look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
