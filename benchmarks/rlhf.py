"""The whole chain of RLHF on a true reward that is known: `experiment=rlhf` as it is, over one or several seeds.

    python -m benchmarks.rlhf
    python -m benchmarks.rlhf --seeds 0 1 2

Writes a table, the numbers and a picture of proxy and true reward to `benchmarks/results/rlhf/`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.checkpoint import write_atomically
from benchmarks.finished_run import FinishedRun, run_training
from benchmarks.machine import describe_commit, describe_machine
from rewards.preference.truth import attainable

HERE = Path(__file__).resolve().parent
TRUTH = "listener"


@dataclass(frozen=True, slots=True)
class Chain:
    """A run, with what was learned before it."""

    run: FinishedRun
    reward_model: dict[str, Any]
    """Its `summary.json`."""
    bayes: dict[str, float]
    """Accuracy and likelihood of one who knows the true reward, on all rankings that were drawn."""
    picture: Path


def measure(seeds: Sequence[int], overrides: Sequence[str]) -> list[Chain]:
    """One chain after the other, each a process of its own, nothing shared."""
    folder = Path("runs") / "rlhf" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    chains = []
    for seed in seeds:
        name = f"ppo-seed{seed}"
        run = run_training("ppo", seed, folder / name, ["experiment=rlhf", *overrides])
        chains.append(read(run, folder / name, Path(run.settings["preparation"]["folder"])))
        print(row(chains[-1]), flush=True)
    return chains


def read(run: FinishedRun, folder: Path, preferences: Path) -> Chain:
    """What the folders of a run and of its preferences hold."""
    lines = [json.loads(line) for line in (preferences / "preferences.jsonl").read_text().splitlines()]
    worths = ([line["truth"][i] for i in line["ranking"]] for line in lines)
    best = attainable(worths, temperature=run.settings["preparation"]["temperature"])
    return Chain(
        run,
        json.loads((preferences / "reward_model" / "summary.json").read_text()),
        {"accuracy": best.accuracy, "nll": best.nll},
        folder / "proxy_and_truth.png",
    )


def row(chain: Chain) -> str:
    """One line of the table."""
    model, watched, records = chain.reward_model["eval"], chain.run.summary["watched"], chain.run.records
    proxy, truth = watched["reward"], watched[TRUTH]
    cells = (
        str(chain.run.seed),
        f"{model['accuracy']:.3f} ({chain.bayes['accuracy']:.3f})",
        f"{model['nll']:.3f} ({chain.bayes['nll']:.3f})",
        f"{proxy['first']:.2f}",
        f"{proxy['last']:.2f}",
        f"{truth['first']:.2f}",
        f"{truth['best']:.2f} (iteration {truth['best_iteration']})",
        f"{truth['last']:.2f}",
        f"{records[-1]['kl/row']:.1f}",
        f"{chain.reward_model['seconds']:.0f}",
        f"{chain.run.summary['seconds']:.0f}",
        f"{chain.run.process_seconds:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def table(chains: Sequence[Chain], about: dict[str, Any]) -> str:
    """Every seed, and how to repeat it."""
    machine, code = about["machine"], about["code"]
    changed = f" with {code['changed_files']} changed files" if code["changed_files"] else ""
    settings = chains[0].run.settings
    own = settings["preparation"]
    return "\n".join(
        [
            "# Proxy and true reward: PPO against a reward model",
            "",
            f"{own['judgements']} rankings of {own['responses']} completions of the untrained policy, drawn from the "
            f"true reward; {settings['iterations']} iterations of PPO. In brackets: one who knows the true reward. The "
            "proxy is in standard deviations of the reward model's held-out completions. KL in nats an episode.",
            "",
            "| seed | pair accuracy | pair NLL | proxy, first | last | truth, first | best | last | KL, last "
            "| reward model s | PPO s | whole process s |",
            f"|{'---|' * 12}",
            *map(row, chains),
            "",
            f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}. "
            f"Commit {code['commit']}{changed}. {about['date']}. `{about['command']}`",
            "",
        ]
    )


def write(chains: Sequence[Chain], about: dict[str, Any], folder: Path) -> None:
    """Table, numbers, and the picture of the first seed."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [
        {
            "seed": chain.run.seed,
            "command": chain.run.command,
            "summary": chain.run.summary,
            "reward_model": chain.reward_model["eval"],
            "bayes": chain.bayes,
            "curve": [
                [r["iteration"], r["reward/mean"], r[f"rewards/{TRUTH}/mean"], r["kl/row"]] for r in chain.run.records
            ],
        }
        for chain in chains
    ]
    write_atomically(folder / "results.json", json.dumps({**about, "runs": shown}) + "\n")
    write_atomically(folder / "table.md", table(chains, about))
    shutil.copyfile(chains[0].picture, folder / "curves.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the numbers as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "rlhf")
    parser.add_argument("overrides", nargs="*", help="settings of agents.train")
    options = parser.parse_args(arguments)
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "benchmarks.rlhf", *(sys.argv[1:] if arguments is None else arguments)]),
        "machine": describe_machine(),
        "code": describe_commit(HERE),
    }
    chains = measure(options.seeds, options.overrides)
    write(chains, about, options.output)
    watched = [chain.run.summary["watched"] for chain in chains]
    print(json.dumps({"benchmark": "rlhf", "watched": watched}))


if __name__ == "__main__":
    main()
