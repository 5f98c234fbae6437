"""What the Gymnasium loop costs of a rollout: everything in `collect` that is not the policy's `act`.

    python -m benchmarks.environment_share

64 sums are answered with at most 32 tokens each, asked for one by one (the plain Gymnasium loop) and 32 at a time. The
environment's steps, observations, records, texts and rewards count as its share, whoever computes them. Rounds
alternate, the first one warms up and does not count, and medians are reported. Writes a table and the numbers to
`benchmarks/results/environment_share/`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.checkpoint import write_atomically
from agents.collect import PROPOSE_TOKENS, collect
from agents.config import PolicyConfig
from agents.policy import Action, LanguageModel, Policy
from agents.policy.hardware import peak_memory_gb, pick_device, pick_dtype
from agents.policy.loading import TINY, load_model, resolve, tiny_model
from agents.setup import tokenizer_of
from benchmarks.machine import describe_commit, describe_machine
from textenv import TextVectorEnv

HERE = Path(__file__).resolve().parent
NEW_TOKENS = 32


class TimedPolicy(Policy):
    """Counts the seconds spent in `act`, which gives arrays: nothing is left running on a GPU when it returns."""

    act_seconds = 0.0

    def act(self, *arguments: Any, **keywords: Any) -> Action:
        """As the policy's own."""
        started = time.perf_counter()
        action = super().act(*arguments, **keywords)
        self.act_seconds += time.perf_counter() - started
        return action


def model_of(config: PolicyConfig, vocabulary: int, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """The language model in the number format that it acts in."""
    if config.model == TINY:
        return tiny_model(vocabulary, config.tiny, seed=0, device=device, dtype=dtype)
    return load_model(resolve(config.model), device=device, dtype=dtype)


def measure(config: PolicyConfig, rows: int, rounds: int) -> dict[int, dict[str, float]]:
    """By tokens proposed at a time: median seconds of a rollout, of it in `act`, and the share of the rest."""
    device = pick_device(config.device)
    env = TextVectorEnv(rows, autoreset_mode="Disabled", tokenizer=tokenizer_of(config), max_new_tokens=NEW_TOKENS)
    vocabulary = len(env.tokenizer)
    model = model_of(config, vocabulary, device, pick_dtype(config.precision, device))
    policy = TimedPolicy(model, num_actions=vocabulary)
    found: dict[int, list[tuple[float, float]]] = {1: [], PROPOSE_TOKENS: []}
    for number in range(rounds + 1):
        for max_tokens, times in found.items():
            policy.act_seconds, started = 0.0, time.perf_counter()
            collect(env, policy, np.arange(rows), first_episode=number * rows, max_tokens=max_tokens)
            times.append((time.perf_counter() - started, policy.act_seconds))
    return {max_tokens: summary(times[1:]) for max_tokens, times in found.items()}


def summary(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians over rounds of (seconds of `collect`, of it in `act`).

    >>> summary([(2.0, 1.0), (4.0, 3.0), (10.0, 9.0)])
    {'seconds': 4.0, 'act_seconds': 3.0, 'share': 0.25, 'lowest': 0.1, 'highest': 0.5}
    """
    shares = [round(1 - act / whole, 6) for whole, act in times]
    return {
        "seconds": statistics.median(whole for whole, _ in times),
        "act_seconds": statistics.median(act for _, act in times),
        "share": statistics.median(shares),
        "lowest": min(shares),
        "highest": max(shares),
    }


def table(results: dict[str, dict[int, dict[str, float]]], about: dict[str, Any]) -> str:
    """The numbers for people."""
    machine, code = about["machine"], about["code"]
    rows = [
        f"| {model} | {tokens} | {r['seconds']:.2f} | {r['act_seconds']:.2f} | {r['share']:.2%} "
        f"| {r['lowest']:.2%} to {r['highest']:.2%} |"
        for model, by_tokens in results.items()
        for tokens, r in by_tokens.items()
    ]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores"
    return "\n".join(
        [
            "# The environment's share of a rollout",
            "",
            f"{about['rows']} sums, at most {NEW_TOKENS} tokens each; {about['precision']}. The share is all of "
            "`collect` but `Policy.act`: steps, observations, records, texts, rewards.",
            "",
            "| policy | proposed at a time | rollout, s | of it in `act`, s | the environment's share | rounds |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"Peak memory of the process: {about['peak_memory_gb']:.2f} GB.",
            "",
            f"{where}, torch {machine['torch']}. Commit {code['commit']}. {about['date']}. `{about['command']}`",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the shares (in percent) as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2"], help="smollm2, tiny, or folders")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "environment_share")
    options = parser.parse_args(arguments)
    configs = [PolicyConfig(model=m, device=options.device, precision=options.precision) for m in options.models]
    results = {config.model: measure(config, options.rows, options.rounds) for config in configs}
    device = pick_device(options.device)
    words = sys.argv[1:] if arguments is None else arguments
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "benchmarks.environment_share", *words]),
        "machine": describe_machine(),
        "code": describe_commit(HERE),
        "rows": options.rows,
        "precision": str(pick_dtype(options.precision, device)).removeprefix("torch."),
        "peak_memory_gb": peak_memory_gb(device),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output / "results.json", json.dumps({**about, "share": results}, indent=1) + "\n")
    shown = table(results, about)
    write_atomically(options.output / "table.md", shown)
    print(shown)
    share = {f"{model}/{n}": round(100 * r["share"], 3) for model, by in results.items() for n, r in by.items()}
    print(json.dumps({"benchmark": "environment_share", "share": share, "ratios": {}}))


if __name__ == "__main__":
    main()
