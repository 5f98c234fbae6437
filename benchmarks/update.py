"""The update alone, on one synthetic rollout: ours, TRL's, and the floor that this machine's matrix products allow.

    python -m benchmarks.update
    python -m benchmarks.update --device cuda --model 1.5b --prompts 64 --prompt-tokens 256 --new 256

Ours is the agent's `update`; TRL's is its trainer's own step with the rollout handed in: loss, backward, clipping,
optimizer. The floor is the least that must be computed (each prompt once, the head only where a token was chosen) at
the best rate of a square product measured in the same process. Before anything is timed, our gradient must equal that
of a plain padded Hugging Face forward. Writes a table and the numbers to `benchmarks/results/update/`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.advantages import group_advantages
from agents.policy.hardware import pick_device
from benchmarks.comparison import (
    HERE,
    Measured,
    Say,
    about,
    measure,
    named_ratios,
    origin,
    run_worker,
    script,
    speed_ratio,
    step_rows,
    write,
)
from benchmarks.peers.environments import OWN, Absent, Worker
from benchmarks.shapes import model_folder
from benchmarks.step_options import parsed, parser_of
from textenv.tokenizer import load_tokenizer

TOLERANCE = 1e-4
CHECKED_PROMPTS = 2
RATE = 1e-6
NAMES = {"ours": "textenv", "trl": "TRL 1.16 GRPOTrainer", "roofline": "the floor"}


def make_rollout(vocabulary: int, prompts: int, group: int, prompt_tokens: int, new: int) -> dict[str, Any]:
    """Random tokens; the completions of a prompt stand behind one another, and their rewards all differ."""
    generator = np.random.default_rng(0)
    prompt = generator.integers(3, vocabulary, (prompts, prompt_tokens)).repeat(group, 0)
    completion = generator.integers(3, vocabulary, (prompts * group, new))
    rewards = np.concatenate([generator.permutation(group) for _ in range(prompts)]) / group
    advantages = group_advantages(
        torch.tensor(rewards, dtype=torch.float32), torch.arange(prompts * group) // group, scale="group"
    )
    return {
        "prompt_ids": prompt.tolist(),
        "completion_ids": completion.tolist(),
        "rewards": rewards.tolist(),
        "advantages": advantages.tolist(),
    }


def first_rows(rollout: dict[str, Any], count: int) -> dict[str, Any]:
    """The first `count` completions."""
    return {name: rows[:count] for name, rows in rollout.items()}


def measure_all(options: argparse.Namespace, say: Say) -> tuple[list[Measured], float]:
    """The check of the gradient, then ours and TRL for each number format; and the relative difference found."""
    folder = model_folder(options.model)
    vocabulary = len(load_tokenizer(str(folder)))
    rollout = make_rollout(vocabulary, options.prompts, options.group, options.prompt_tokens, options.new)
    shared = {
        "model": str(folder),
        "vocabulary": vocabulary,
        "device": pick_device(options.device).type,
        "group": options.group,
        "rollout": rollout,
        "steps": options.steps + 1,
        "learning_rate": RATE,
        "seed": 0,
    }
    ours = Worker(OWN, script("ours_update"))
    difference = check_gradient(ours, shared, options, say)
    found = []
    for precision in options.precision:
        found.append(
            measure(
                "ours",
                ours,
                {**shared, "precision": precision},
                precision=precision,
                limit_seconds=options.limit_seconds,
                say=say,
            )
        )
        if "trl" in options.peers:
            found.append(
                measure(
                    "trl",
                    Worker("trl", script("trl_grpo")),
                    trl_settings(shared, precision, options.micro_batch, options.new),
                    precision=precision,
                    limit_seconds=options.limit_seconds,
                    say=say,
                )
            )
    return found, difference


def check_gradient(ours: Worker, shared: dict[str, Any], options: argparse.Namespace, say: Say) -> float:
    """Relative difference to a plain implementation; ends the benchmark when it is too large."""
    few = first_rows(shared["rollout"], min(CHECKED_PROMPTS, options.prompts) * options.group)
    asked = {**shared, "rollout": few, "precision": "float32", "check": True}
    result = run_worker(ours, asked, limit_seconds=options.limit_seconds, say=say)
    difference = result["relative_difference"]
    say(f"our gradient differs from a plain one by {difference:.1e} of its norm (float32, limit {TOLERANCE})")
    if not difference <= TOLERANCE:
        raise SystemExit("error: the gradient is wrong, so its speed is worth nothing")
    return difference


def trl_settings(shared: dict[str, Any], precision: str, micro_batch: int, new: int) -> dict[str, Any]:
    """TRL's step on the same rollout; its data set is never read."""
    rows, steps = len(shared["rollout"]["rewards"]), shared["steps"]
    return {
        **shared,
        "bfloat16": precision == "bfloat16",
        "prompts": ["unused"] * (rows // shared["group"] * steps),
        "completions": rows,
        "micro_batch": micro_batch,
        "new": new,
        "fixed_length": True,
        "learning_rates": [RATE] * steps,
        "temperature": 1.0,
    }


def floor_of(ours: Measured) -> Measured:
    """The least seconds for the useful FLOPs at the measured rate."""
    extra = ours.extra or {}
    seconds = extra["useful_flops"] / extra["matmul_flops_per_second"]
    return Measured("roofline", ours.precision, ({"seconds": seconds, "tokens": ours.steps[0]["tokens"]},))


def with_ratios(found: Sequence[Measured]) -> list[tuple[Measured, float | None]]:
    """Each measurement, the floors behind ours, and our speed over that of every other row."""
    ours = {m.precision: m for m in found if m.name == "ours"}
    rows: list[tuple[Measured, float | None]] = []
    for m in found:
        rows.append((m, None if m.name == "ours" else speed_ratio(ours[m.precision], m)))
        if m.name == "ours":
            floor = floor_of(m)
            rows.append((floor, speed_ratio(m, floor)))
    return rows


def table(
    rows: Sequence[tuple[Measured, float | None]], difference: float, options: argparse.Namespace, told: dict[str, Any]
) -> str:
    """The numbers for people."""
    rates = ", ".join(
        f"{m.extra['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s in {m.precision}"
        for m, _ in rows
        if m.name == "ours" and m.extra
    )
    return "\n".join(
        [
            "# The update",
            "",
            f"{options.model}, a synthetic rollout of {options.prompts} prompts x {options.group} completions, "
            f"{options.prompt_tokens} + {options.new} tokens, one optimizer step. Medians of {options.steps} (lowest "
            f"to highest) behind a warm-up. TRL in micro-batches of {options.micro_batch}; in bfloat16 with its "
            "defaults (autocast, gradient checkpointing), in float32 without.",
            "",
            *step_rows(rows, NAMES),
            "",
            f"A square product, in our processes: {rates}. Our gradient differs from that of a plain padded Hugging "
            f"Face forward by {difference:.1e} of its norm (float32).",
            "",
            origin(told),
            "",
        ]
    )


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--peers", nargs="*", choices=("trl",), default=["trl"])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "update")
    return parsed(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, measure, write, print the ratios as JSON in the last line."""
    options = options_of(arguments)
    told = about("update", sys.argv[1:] if arguments is None else arguments)
    try:
        found, difference = measure_all(options, lambda text: print(text, flush=True))
    except (ValueError, Absent) as error:
        sys.exit(f"error: {error}")
    rows = with_ratios(found)
    shown = table(rows, difference, options, told)
    records = [m.record() for m, _ in rows]
    ratios = named_ratios(rows)
    write(options.output, {**told, "gradient_difference": difference, "measured": records, "ratios": ratios}, shown)
    print("\n" + shown)
    memory = {f"{m.name}/{m.precision}": round(m.peak_memory_gb, 2) for m in found if m.absent is None}
    print(json.dumps({"benchmark": "update", "ratios": ratios, "peak_memory_gb": memory}))


if __name__ == "__main__":
    main()
