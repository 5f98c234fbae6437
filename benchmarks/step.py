"""Whole iterations: our GRPO against TRL's GRPOTrainer, our PPO against the PPOTrainer of TRL 1.12.

    python -m benchmarks.step
    python -m benchmarks.step --peers trl_ppo --critic separate --reference --output benchmarks/results/step/same_models
    python -m benchmarks.step --device cuda --model 1.5b --prompts 64 --prompt-tokens 256 --new 256

The same model, prompts, group size, lengths and number format; a reward that is a hash of the text; no end token, so
that every completion has exactly `--new` tokens; no KL. TRL's PPO has a second model as critic and always asks a
reference, ours does with `--critic separate --reference`. Each side is a process of its own, one after the other; the
first step is a warm-up. TRL in bfloat16 is TRL as it comes (autocast and gradient checkpointing), in float32 it has
neither. Writes a table and the numbers to `benchmarks/results/step/`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.policy.hardware import pick_device
from benchmarks.comparison import (
    HERE,
    Measured,
    Say,
    about,
    measure,
    named_ratios,
    origin,
    script,
    speed_ratio,
    step_rows,
    write,
)
from benchmarks.peers.environments import OWN, Absent, Worker
from benchmarks.shapes import make_prompts, model_folder
from benchmarks.step_options import parsed, parser_of

PEERS = ("trl_grpo", "trl_ppo")
NAMES = {
    "ours": "textenv GRPO",
    "trl_grpo": "TRL 1.16 GRPOTrainer",
    "ours_ppo": "textenv PPO",
    "trl_ppo": "TRL 1.12 PPOTrainer",
}
RATE = 1e-6
"""Small, but not 0: weights do change."""
KL_COEF = 0.05
"""The default of TRL's PPO."""


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What all workers share."""
    folder = model_folder(options.model)
    steps = options.steps + 1
    return {
        "model": str(folder),
        "device": pick_device(options.device).type,
        "prompts": make_prompts(folder, options.prompts * steps, options.prompt_tokens),
        "num_prompts": options.prompts,
        "group": options.group,
        "completions": options.prompts * options.group,
        "micro_batch": options.micro_batch,
        "new": options.new,
        "steps": steps,
        "temperature": 1.0,
        "learning_rate": RATE,
        "seed": 0,
    }


def measure_all(options: argparse.Namespace, say: Say) -> list[Measured]:
    """Ours, then its peer, for each number format."""
    shared = settings_of(options)
    found = []

    def run(name: str, peer: str, worker: str, precision: str, **settings: Any) -> None:
        found.append(
            measure(
                name,
                Worker(peer, script(worker)),
                {**shared, "precision": precision, **settings},
                precision=precision,
                limit_seconds=options.limit_seconds,
                say=say,
            )
        )

    for precision in options.precision:
        run("ours", OWN, "ours_step", precision, agent="grpo", critic="none", epochs=1)
        if "trl_grpo" in options.peers:
            run(
                "trl_grpo",
                "trl",
                "trl_grpo",
                precision,
                bfloat16=precision == "bfloat16",
                fixed_length=True,
                learning_rates=[RATE] * shared["steps"],
            )
    if "trl_ppo" in options.peers:
        repeated = [prompt for prompt in shared["prompts"] for _ in range(options.group)]
        kind = {"critic": options.critic, "kl_coef": KL_COEF if options.reference else 0.0}
        run("ours_ppo", OWN, "ours_step", "float32", agent="ppo", epochs=options.epochs, **kind)
        run("trl_ppo", "trl_ppo", "trl_ppo", "float32", prompts=repeated, epochs=options.epochs)
    return found


def with_ratios(found: Sequence[Measured]) -> list[tuple[Measured, float | None]]:
    """Each measurement and, for a peer's, our speed over its."""
    ours = {(m.name, m.precision): m for m in found if m.name.startswith("ours")}
    opponent = {"trl_grpo": "ours", "trl_ppo": "ours_ppo"}
    return [
        (m, speed_ratio(ours.get((opponent[m.name], m.precision)), m) if m.name in opponent else None) for m in found
    ]


def peak_memory(found: Sequence[Measured]) -> dict[str, float]:
    """By name and number format."""
    return {f"{m.name}/{m.precision}": round(m.peak_memory_gb, 2) for m in found if m.absent is None}


def table(found: Sequence[Measured], options: argparse.Namespace, told: dict[str, Any]) -> str:
    """The numbers for people."""
    reference = "both ask a reference" if options.reference else "TRL's asks a reference, ours has none"
    ppo = (
        f" PPO: {options.epochs} epochs; our critic is `{options.critic}`, TRL's a second model of the policy's size; "
        f"{reference}."
    )
    return "\n".join(
        [
            "# Whole iterations",
            "",
            f"{options.model}, {options.prompts} prompts x {options.group} completions, {options.prompt_tokens} prompt "
            f"tokens, {options.new} new ones (exactly), one optimizer step a GRPO iteration, no KL. Medians of "
            f"{options.steps} steps (lowest to highest) behind a warm-up. TRL in micro-batches of "
            f"{options.micro_batch}; in bfloat16 with its defaults (autocast, gradient checkpointing), in float32 "
            f"without.{ppo if 'trl_ppo' in options.peers else ''}",
            "",
            *step_rows(with_ratios(found), NAMES),
            "",
            origin(told),
            "",
        ]
    )


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=2, help="of PPO")
    parser.add_argument("--critic", choices=("shared", "separate"), default="shared", help="of our PPO")
    parser.add_argument("--reference", action="store_true", help="our PPO asks a reference for a KL, as TRL's does")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "step")
    return parsed(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the ratios as JSON in the last line."""
    options = options_of(arguments)
    told = about("step", sys.argv[1:] if arguments is None else arguments)
    try:
        found = measure_all(options, lambda text: print(text, flush=True))
    except (ValueError, Absent) as error:
        sys.exit(f"error: {error}")
    shown = table(found, options, told)
    ratios = named_ratios(with_ratios(found), float32_only=["trl_ppo"])
    write(options.output, {**told, "measured": [m.record() for m in found], "ratios": ratios}, shown)
    print("\n" + shown)
    print(json.dumps({"benchmark": "step", "ratios": ratios, "peak_memory_gb": peak_memory(found)}))


if __name__ == "__main__":
    main()
