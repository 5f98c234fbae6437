"""What the environment costs: native against `SyncVectorEnv`, `step_many` against a loop of `step`, its part of a
rollout, and its memory.

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
from agents.collect import PROPOSE_TOKENS, collect
from agents.config import PolicyConfig
from agents.policy import Policy
from agents.policy.hardware import peak_memory_gb, pick_device
from agents.setup import build_model, tokenizer_of
from benchmarks.machine import describe_commit, describe_machine
from rewards.types import Sample, Score
from textenv import TextEnv, TextVectorEnv

HERE = Path(__file__).resolve().parent
VOCABULARY, PROMPT_TOKENS, NEW_TOKENS = 50_000, 64, 192
MEMORY_ROWS, MEMORY_VOCABULARY, MEMORY_STEPS = 1024, 150_000, 10_000


class WideTokenizer:
    """A character a token, in a vocabulary of a language model's size; one token in `per_end` ends the text.

    It decodes about as fast as text can be made, so that the environment is measured and not a tokenizer.
    """

    pad_id = 0
    start_ids: tuple[int, ...] = ()

    def __init__(self, size: int = VOCABULARY, per_end: int = 128) -> None:
        self.name, self.size = f"wide:{size}", size
        self.end_ids = frozenset(range(1, size, per_end))

    def __len__(self) -> int:
        return self.size

    def encode(self, text: str) -> list[int]:
        """A character's code."""
        return list(map(ord, text))

    def decode(self, ids: Any, *, skip_special: bool = True) -> str:
        """The characters of these codes; surrogates, which are none, stay as they are."""
        return np.asarray(ids, dtype="<i4").tobytes().decode("utf-32-le", "surrogatepass")

    def decode_batch(self, rows: Sequence[Any]) -> list[str]:
        """`decode` of each row: one text, cut."""
        text = self.decode(np.concatenate(rows)) if rows else ""
        ends = np.cumsum([len(row) for row in rows]).tolist()
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def render_chat(self, messages: Any, *, add_generation_prompt: bool = True) -> None:
        """None: there is no chat template."""

    def token_texts(self) -> list[str]:
        """A character a token."""
        return list(map(chr, range(self.size)))


class Free:
    """A reward that costs nothing."""

    def __init__(self) -> None:
        self.score = Score(1.0)

    def score_batch(self, samples: Sequence[Sample]) -> list[Score]:
        """1 for each."""
        return [self.score] * len(samples)


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


class Timed(TextVectorEnv):
    """Counts the seconds spent inside it, rewards included."""

    seconds = 0.0

    def reset(self, **arguments: Any) -> Any:
        """As the environment's own."""
        return self._timed(super().reset, **arguments)

    def step_many(self, *arguments: Any) -> Any:
        """As the environment's own."""
        return self._timed(super().step_many, *arguments)

    def scored(self, *arguments: Any) -> Any:
        """As the environment's own."""
        return self._timed(super().scored, *arguments)

    def _timed(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments, **keywords)
        self.seconds += time.perf_counter() - started
        return result


def share_of_rollout(model: str, max_tokens: int, rounds: int, rows: int = 64) -> dict[str, float]:
    """The environment's part of the time in which the policy core answers 64 sums with at most 32 tokens each."""
    config = PolicyConfig(model=model)
    device = pick_device(config.device)
    env = Timed(rows, autoreset_mode="Disabled", tokenizer=tokenizer_of(config), max_new_tokens=32)
    vocabulary = len(env.tokenizer)
    policy = Policy(build_model(config, vocabulary, device, 0, print), num_actions=vocabulary)
    shares, seconds = [], []
    for number in range(rounds):
        env.seconds, started = 0.0, time.perf_counter()
        collect(env, policy, np.arange(rows), first_episode=number * rows, max_tokens=max_tokens)
        seconds.append(time.perf_counter() - started)
        shares.append(env.seconds / seconds[-1])
    return {"share": statistics.median(shares), "seconds": statistics.median(seconds)}


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
        "| policy | proposed at a time | a rollout of 64 x 32, s | the environment's part |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {proposed} | {r['seconds']:.2f} | {r['share']:.2%} |"
        for name, by_tokens in results["share"].items()
        for proposed, r in by_tokens.items()
    ]
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
    parser.add_argument("--models", nargs="+", default=["tiny", "smollm2"], help="policies whose rollouts are timed")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "environment")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {
        "memory": memory_growth(),
        "step": {n: steps_per_second(n, options.seconds, options.rounds) for n in options.rows},
        "step_many": {n: many_against_loop(n, options.rounds) for n in options.rows if n > 1},
        "share": {
            model: {tokens: share_of_rollout(model, tokens, options.rounds) for tokens in (1, PROPOSE_TOKENS)}
            for model in options.models
        },
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
