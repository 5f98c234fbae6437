"""Seconds of a rollout with immediate and with deferred scoring, for rewards that are slow in different ways.

    python -m benchmarks.overlap

A random model answers sums until an end token happens to come, so that rows end at all times. Both kinds of scoring do
the same work in rounds that alternate, their Rollouts are compared, and medians are reported. Writes a table and the
numbers to `benchmarks/results/overlap/`; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents.checkpoint import write_atomically
from agents.collect import Collected, collect
from agents.policy import Policy
from agents.policy.loading import TinyConfig, tiny_model
from benchmarks.machine import describe_commit, describe_machine
from textenv import TextVectorEnv

HERE = Path(__file__).resolve().parent
SHAPE = TinyConfig(hidden_size=256, num_layers=6, num_heads=4)
SCORINGS = ("immediate", "deferred")


def rewards(milliseconds: float) -> dict[str, Any]:
    """What is compared: a name for people, and the reward."""
    seconds = milliseconds / 1000

    def part(name: str, execution: str, **settings: float) -> dict[str, Any]:
        return {"reward": {"fn": {"_target_": f"benchmarks.slow_rewards.{name}", **settings}, "execution": execution}}

    return {
        "worker_waits": part("sleeps", "process", seconds=seconds),
        "worker_computes": part("computes", "process", seconds=seconds),
        "async_judge": part("judges", "inline", seconds=10 * seconds),
        "inline_waits": part("sleeps", "inline", seconds=seconds),
        "inline_computes": part("computes", "inline", seconds=seconds),
        "inline_free": part("counts", "inline"),
    }


def measure(reward: Any, policy: Policy, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each kind of scoring, workers started before; the ratio is their quotient.

    Raises `AssertionError` where the two make different Rollouts.
    """
    streams = options.rows < options.problems
    mode = AutoresetMode.NEXT_STEP if streams else AutoresetMode.DISABLED
    envs = {
        scoring: TextVectorEnv(
            options.rows, autoreset_mode=mode, max_new_tokens=options.max_new_tokens, reward=reward, scoring=scoring
        )
        for scoring in SCORINGS
    }
    found: dict[str, list[float]] = {scoring: [] for scoring in SCORINGS}
    with closing(envs["immediate"]), closing(envs["deferred"]):
        for env in envs.values():
            collect(env, policy, np.arange(1))
        for number in range(options.rounds):
            done = {}
            for scoring, env in envs.items():
                started = time.perf_counter()
                done[scoring] = collect(
                    env,
                    policy,
                    np.arange(options.problems),
                    first_episode=number * options.problems,
                    max_tokens=options.propose_tokens,
                )
                found[scoring].append(time.perf_counter() - started)
            refuse_different(done["immediate"], done["deferred"])
    medians = {scoring: statistics.median(seconds) for scoring, seconds in found.items()}
    return medians | {"ratio": medians["immediate"] / medians["deferred"]}


def refuse_different(a: Collected, b: Collected) -> None:
    """Scores and texts are what they were, where they were."""
    for name in ("tokens", "length", "reward", "valid", "finish_reason", "sampled_logprob"):
        assert torch.equal(getattr(a.rollout, name), getattr(b.rollout, name)), f"{name} differs"
    assert a.ended == b.ended, "the verdicts differ"


def table(results: dict[str, dict[str, float]], about: dict[str, Any], options: argparse.Namespace) -> str:
    """The numbers for people."""
    told = {
        "worker_waits": f"waits {options.milliseconds:g} ms a sample, in a worker process",
        "worker_computes": f"computes {options.milliseconds:g} ms a sample, in a worker process",
        "async_judge": f"a coroutine that waits {10 * options.milliseconds:g} ms",
        "inline_waits": f"waits {options.milliseconds:g} ms a sample, inline",
        "inline_computes": f"computes {options.milliseconds:g} ms a sample in Python, inline",
        "inline_free": "costs nothing, inline",
    }
    machine, code = about["machine"], about["code"]
    return "\n".join(
        [
            "# Deferred scoring against immediate scoring",
            "",
            f"A rollout of {options.problems} answers through {options.rows} rows, at most {options.max_new_tokens} "
            f"tokens each, {options.propose_tokens} proposed at a time. A random model of "
            f"{about['weights'] / 1e6:.0f} million weights; torch threads: {about['threads']}. Medians of rounds that "
            f"alternate, {options.rounds} each; the Rollouts are equal.",
            "",
            "| reward | immediate, s | deferred, s | ratio |",
            "|---|---|---|---|",
            *[
                f"| {told[name]} | {r['immediate']:.2f} | {r['deferred']:.2f} | {r['ratio']:.2f} |"
                for name, r in results.items()
            ],
            "",
            f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}. "
            f"Commit {code['commit']}. {about['date']}. `{about['command']}`",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the ratios as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--problems", type=int, default=64, help="more than rows: they stream through the rows")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--propose-tokens", type=int, default=4, help="at a time; scores begin behind each proposal")
    parser.add_argument("--milliseconds", type=float, default=25.0, help="of the slow rewards, a sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch, so that a worker has a processor too")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "overlap")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    vocabulary = len(TextVectorEnv(1).tokenizer)
    policy = Policy(tiny_model(vocabulary, SHAPE, seed=0, device=torch.device("cpu")), num_actions=vocabulary)
    results = {}
    for name, reward in rewards(options.milliseconds).items():
        results[name] = measure(reward, policy, options)
        r = results[name]
        print(f"{name:16} immediate {r['immediate']:.2f} s, deferred {r['deferred']:.2f} s, ratio {r['ratio']:.2f}")
    words = sys.argv[1:] if arguments is None else arguments
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "benchmarks.overlap", *words]),
        "threads": options.threads,
        "weights": sum(parameter.numel() for parameter in policy.parameters()),
        "machine": describe_machine(),
        "code": describe_commit(HERE),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output / "results.json", json.dumps({**about, **results}, indent=1) + "\n")
    write_atomically(options.output / "table.md", table(results, about, options))
    ratios = {name: round(r["ratio"], 2) for name, r in results.items()}
    print(json.dumps({"benchmark": "overlap", "ratios": ratios}))


if __name__ == "__main__":
    main()
