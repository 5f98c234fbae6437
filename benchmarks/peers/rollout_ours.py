"""Ours on the workloads of `benchmarks.rollout`: the whole `collect` in the Gymnasium environment, reward included."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.collect import collect
from agents.policy import Policy, Sampling
from agents.policy.hardware import peak_memory_gb
from agents.policy.heap import keep_freed_memory
from agents.policy.loading import load_model
from benchmarks.free import Free, WideTokenizer
from benchmarks.peers.answering import answer
from textenv import TextVectorEnv
from textenv.tasks.text import Problems
from textenv.tokenizer import Tokenizer, load_tokenizer

EVALUATE_ROWS = 8
QUANTILES = (0.5, 0.9, 0.99)


class Numbered:
    """A tokenizer that encodes the text "3" as prompt number 3 and has no end tokens; the rest is `inner`'s."""

    start_ids: tuple[int, ...] = ()
    end_ids: frozenset[int] = frozenset()

    def __init__(self, inner: Tokenizer, prompts: Sequence[Sequence[int]]) -> None:
        self.inner, self.prompts = inner, prompts
        self.name, self.pad_id = f"numbered:{inner.name}", inner.pad_id

    def __len__(self) -> int:
        return len(self.inner)

    def encode(self, text: str) -> list[int]:
        """The tokens of the prompt with this number."""
        return list(self.prompts[int(text)])

    def decode(self, ids: Any, *, skip_special: bool = True) -> str:
        """As the inner one."""
        return self.inner.decode(ids, skip_special=skip_special)

    def decode_batch(self, rows: Sequence[Any]) -> list[str]:
        """As the inner one."""
        return self.inner.decode_batch(rows)

    def render_chat(self, messages: Any, *, add_generation_prompt: bool = True) -> None:
        """None: there is no chat template."""

    def token_texts(self) -> list[str]:
        """As the inner one."""
        return self.inner.token_texts()


class Budgeted(TextVectorEnv):
    """Gives every episode of the queue a budget of its own."""

    budgets: np.ndarray

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """As the environment's own, with the budgets among the options."""
        return super().reset(seed=seed, options={**(options or {}), "max_new_tokens": self.budgets})


def load(settings: dict[str, Any]) -> dict[str, Any]:
    """The policy in the number format that is measured, and an environment a workload."""
    torch.set_num_threads(settings["threads"])
    keep_freed_memory()
    device = torch.device(settings["device"])
    folder = settings["model"]
    model = load_model(folder, device=device, dtype=getattr(torch, settings["precision"]))
    named = (Path(folder) / "tokenizer.json").is_file()
    inner: Tokenizer = load_tokenizer(folder) if named else WideTokenizer(model.vocabulary)
    policy = Policy(model, num_actions=len(inner))
    work = json.loads(Path(settings["work"]).read_text())
    envs: dict[str, Budgeted] = {}
    episodes = 0

    def env_of(workload: str) -> Budgeted:
        if workload not in envs:
            one = work[workload]
            envs[workload] = Budgeted(
                len(one["lengths"]),
                autoreset_mode="Disabled",
                task=Problems([str(number) for number in range(len(one["prompts"]))], reward={"free": Free()}),
                tokenizer=Numbered(inner, one["prompts"]),
                max_new_tokens=max(one["lengths"]),
            )
        return envs[workload]

    def generate(workload: str, new: int | None = None, sampling: Sampling | None = None) -> tuple[Any, float]:
        nonlocal episodes
        one, env = work[workload], env_of(workload)
        env.budgets = np.minimum(one["lengths"], new or max(one["lengths"]))
        problems = np.arange(len(one["prompts"])).repeat(one["samples"])
        episodes += len(problems)
        started = time.perf_counter()
        rollout = collect(env, policy, problems, group_ids=problems, first_episode=episodes, sampling=sampling).rollout
        return rollout, time.perf_counter() - started

    def measure(workload: str, new: int | None = None) -> dict[str, Any]:
        rollout, seconds = generate(workload, new)
        peak = peak_memory_gb(device) if device.type == "cuda" else None
        return {"seconds": seconds, "lengths": rollout.response_length.tolist(), "device_peak_gb": peak}

    def greedy() -> dict[str, Any]:
        rollout, _ = generate("greedy", sampling=Sampling(temperature=0))
        rows = zip(rollout.tokens, rollout.prompt_length, rollout.length, strict=True)
        return {"tokens": [tokens[start:end].tolist() for tokens, start, end in rows]}

    def numerics() -> dict[str, Any]:
        """How far the sampler's log-probabilities are from `evaluate`'s on the same tokens, in nats."""
        rollout, _ = generate("ragged_prompts")
        parts = [rollout[start : start + EVALUATE_ROWS] for start in range(0, len(rollout), EVALUATE_ROWS)]
        with torch.no_grad():
            scored = torch.cat([policy.evaluate(part).logprob.float().cpu() for part in parts])
        return describe_difference((scored - rollout.sampled_logprob)[rollout.mask])

    return {"measure": measure, "greedy": greedy, "numerics": numerics}


def describe_difference(difference: torch.Tensor) -> dict[str, float]:
    """Of log ratios: mean, quantiles and largest of their size, and the k3 estimate of the divergence they mean.

    >>> describe_difference(torch.tensor([0.0, 0.0]))["k3"]
    0.0
    """
    d = difference.double()
    quantiles = torch.quantile(d.abs(), torch.tensor(QUANTILES, dtype=d.dtype)).tolist()
    return {
        "tokens": d.numel(),
        "mean": d.abs().mean().item(),
        **{f"quantile_{q}": value for q, value in zip(QUANTILES, quantiles, strict=True)},
        "max": d.abs().max().item(),
        "k3": (d.exp() - 1 - d).mean().item(),
    }


if __name__ == "__main__":
    answer(load)
