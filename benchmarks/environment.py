"""What the environment costs: native against `SyncVectorEnv`, `step_many` against a loop of `step`, and its memory.

Its part of a rollout: `benchmarks.environment_share`.

    python -m benchmarks.environment

Everything is measured side by side in one run, in rounds that alternate, and reported as medians and their ratios.
Writes a table and the numbers to `benchmarks/results/environment/`.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.utils.performance import benchmark_vector_step
from gymnasium.vector import SyncVectorEnv

from agents.checkpoint import write_atomically
from agents.policy.hardware import peak_memory_gb
from benchmarks.free import Free, WideTokenizer
from benchmarks.machine import describe_commit, describe_machine
from textenv import TextEnv, TextVectorEnv

HERE = Path(__file__).resolve().parent
VOCABULARY, PROMPT_TOKENS, NEW_TOKENS = 50_000, 64, 192
MEMORY_ROWS, MEMORY_VOCABULARY, MEMORY_STEPS = 1024, 150_000, 10_000


def settings(vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """50,000 tokens, prompts of at most 64 tokens, a budget of 192."""
    return {
        "task": {"_target_": "text", "problems": ["What is the answer to this question?", "And to that?"]},
        "reward": {"free": Free()},
        "tokenizer": WideTokenizer(vocabulary),
        "max_prompt_tokens": PROMPT_TOKENS,
        "max_new_tokens": NEW_TOKENS,
    }


def steps_per_second(rows: int, seconds: float, rounds: int) -> dict[str, float]:
    """Environment steps a second by Gymnasium's own benchmark, resets included."""
    kinds: dict[str, Callable[[], Any]] = {
        "native": lambda: TextVectorEnv(rows, **settings()),
        "sync": lambda: SyncVectorEnv([functools.partial(TextEnv, **settings())] * rows),
    }
    envs = {name: make() for name, make in kinds.items()}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, env in envs.items():
            found[name].append(benchmark_vector_step(env, target_duration=seconds, seed=0))  # type: ignore[arg-type]
    medians = {name: statistics.median(values) for name, values in found.items()}
    return medians | {"ratio": medians["native"] / medians["sync"]}


def many_against_loop(rows: int, rounds: int) -> dict[str, float]:
    """Seconds for whole episodes of at most 192 tokens from one matrix of tokens; the trajectories must be equal.

    The garbage collector is off while the clock runs, as in `timeit`.
    """
    env = TextVectorEnv(rows, autoreset_mode="Disabled", **settings())
    generator = np.random.default_rng(0)
    actions = generator.integers(0, VOCABULARY, (rows, NEW_TOKENS))
    times: dict[str, list[float]] = {"step_many": [], "loop": []}
    outcomes = {}
    for _ in range(rounds):
        for name, run in (("step_many", at_once), ("loop", one_by_one)):
            env.reset(seed=0)
            gc.disable()
            started = time.perf_counter()
            outcomes[name] = run(env, actions)
            times[name].append(time.perf_counter() - started)
            gc.enable()
    for a, b in zip(*outcomes.values(), strict=True):
        assert np.array_equal(a, b), "step_many and the loop differ"
    medians = {f"{name}_seconds": statistics.median(values) for name, values in times.items()}
    return medians | {"ratio": medians["loop_seconds"] / medians["step_many_seconds"]}


def at_once(env: TextVectorEnv, actions: np.ndarray) -> tuple[np.ndarray, ...]:
    """One call."""
    result = env.step_many(actions)
    return result.observations["tokens"], result.rewards, result.terminated


def one_by_one(env: TextVectorEnv, actions: np.ndarray) -> tuple[np.ndarray, ...]:
    """A call a column; rows that are over wait."""
    rewards = np.zeros(actions.shape)
    over = np.zeros(len(actions), dtype=np.bool_)
    result = None
    for column in range(actions.shape[1]):
        result = env.step_many(actions[:, column : column + 1], (~over).astype(np.int64))
        rewards[:, column] = result.rewards[:, 0]
        over |= result.terminated | result.truncated
    assert result is not None
    return result.observations["tokens"], rewards, over


def memory_growth() -> dict[str, float]:
    """Peak resident memory, in MB, behind 500 steps of 1,024 rows with 150,000 tokens, and behind 10,000 more."""
    env = TextVectorEnv(MEMORY_ROWS, **settings(MEMORY_VOCABULARY))
    generator = np.random.default_rng(0)
    env.reset(seed=0)

    def peak_behind(steps: int) -> float:
        for _ in range(steps):
            env.step(generator.integers(0, MEMORY_VOCABULARY, MEMORY_ROWS))
        return 1000 * peak_memory_gb(torch.device("cpu"))

    return {"before_mb": peak_behind(500), "after_mb": peak_behind(MEMORY_STEPS)}


def table(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The numbers for people."""
    lines = [
        "# The environment's speed",
        "",
        f"{VOCABULARY:,} tokens, at most {PROMPT_TOKENS} + {NEW_TOKENS} a row, a reward that costs nothing, an end "
        "token in 128. Medians of alternating rounds; an episode that ends is decoded and scored in all of them.",
        "",
        "| rows | native, steps/s | SyncVectorEnv, steps/s | ratio |",
        "|---|---|---|---|",
    ]
    lines += [f"| {n} | {r['native']:,.0f} | {r['sync']:,.0f} | {r['ratio']:.1f} |" for n, r in results["step"].items()]
    lines += ["", f"| rows x {NEW_TOKENS} | `step_many`, ms | loop of steps, ms | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {n} | {1000 * r['step_many_seconds']:.2f} | {1000 * r['loop_seconds']:.1f} | {r['ratio']:.1f} |"
        for n, r in results["step_many"].items()
    ]
    memory, machine, code = results["memory"], about["machine"], about["code"]
    lines += [
        "",
        f"Peak memory with {MEMORY_ROWS:,} rows and {MEMORY_VOCABULARY:,} tokens: {memory['before_mb']:.1f} MB behind "
        f"500 steps, {memory['after_mb']:.1f} MB behind {MEMORY_STEPS:,} more.",
        "",
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}. Commit {code['commit']}. "
        f"{about['date']}. `{about['command']}`",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the ratios as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "environment")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {
        "memory": memory_growth(),
        "step": {n: steps_per_second(n, options.seconds, options.rounds) for n in options.rows},
        "step_many": {n: many_against_loop(n, options.rounds) for n in options.rows if n > 1},
    }
    words = sys.argv[1:] if arguments is None else arguments
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "benchmarks.environment", *words]),
        "machine": describe_machine(),
        "code": describe_commit(HERE),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output / "results.json", json.dumps({**about, **results}, indent=1) + "\n")
    write_atomically(options.output / "table.md", table(results, about))
    ratios = {f"{name}/{n}": round(r["ratio"], 2) for name in ("step", "step_many") for n, r in results[name].items()}
    print(json.dumps({"benchmark": "environment", **ratios}))


if __name__ == "__main__":
    main()
