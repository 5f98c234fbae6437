"""How fast rollouts are: ours, Hugging Face's `generate`, vLLM, and the bound that the machine sets.

    python -m benchmarks.rollout
    python -m benchmarks.rollout --device cuda --model 135m --rows 256 --prompt 256 --new 256

Every system is a process of its own, loaded once and then measured in turn, round by round, on the same model, number
format and prompts; the first round warms up and does not count. Ours is the whole `collect` in the Gymnasium
environment: the policy, the environment's steps, records, texts and a reward. vLLM's environment is made on first use,
in `.venv-peers/`. Before anything is timed, our greedy tokens must be Hugging Face's, in float32.

Writes a table and the numbers to `benchmarks/results/rollout/`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from agents.checkpoint import write_atomically
from agents.policy.hardware import PRECISIONS, pick_device
from benchmarks.machine import describe_commit, describe_machine
from benchmarks.models import model_folder
from benchmarks.peers.environments import HERE as PEERS
from benchmarks.peers.environments import OWN, Absent, Running, Worker
from benchmarks.rollout_table import cells_of, ratios, table
from benchmarks.workloads import Workload, source_tokens, workloads

HERE = Path(__file__).resolve().parent
LOAD_SECONDS, ASK_SECONDS = 1800.0, 1800.0
SYSTEMS = ("ours", "hf_generate", "vllm", "roofline")
NOT_FOR = {"hf_generate": ("shared_prompts",)}
"""`generate` repeats a shared prompt: the row would be that of different ones."""
MAIN = "different"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of every system."""

    folder: Path
    device: torch.device
    threads: int
    rounds: int
    work: Path
    workloads: Mapping[str, Workload]

    def settings(self, precision: str) -> dict[str, Any]:
        """What a worker is started with."""
        longest = max(max(map(len, w.prompts)) + max(w.lengths) for w in self.workloads.values())
        return {
            "model": str(self.folder),
            "device": str(self.device),
            "precision": precision,
            "threads": self.threads,
            "work": str(self.work),
            "max_tokens": longest,
        }


def worker_of(system: str, device: torch.device) -> Worker:
    """The script of a system and where it runs. Raises `Absent` for what this machine cannot have."""
    script = PEERS / f"rollout_{system.removesuffix('_generate')}.py"
    if system != "vllm":
        return Worker(OWN, script)
    if device.type != "cuda":
        return Worker("vllm", script)
    if importlib.util.find_spec("vllm") is None:
        raise Absent("vllm is not installed beside torch here; its package for CPUs does not run on a GPU")
    return Worker(OWN, script)


def started(system: str, plan: Plan, precision: str, say: Say) -> Running:
    """The system, loaded. Raises `Absent`."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    worker = worker_of(system, plan.device)
    say(f"Loading {system} ({precision}) ...")
    return worker.start(plan.settings(precision), seconds=LOAD_SECONDS, environment=offline, say=say)


def check_greedy(plan: Plan, say: Say) -> None:
    """Raise `RuntimeError` unless we write the tokens that Hugging Face's `generate` writes, in float32."""
    found = {}
    for system in ("ours", "hf_generate"):
        with started(system, plan, "float32", say) as running:
            found[system] = running.ask({"do": "greedy"}, seconds=ASK_SECONDS)["tokens"]
    for row, (ours, theirs) in enumerate(zip(*found.values(), strict=True)):
        if ours != theirs:
            raise RuntimeError(f"our greedy tokens are not Hugging Face's in row {row}: {ours} against {theirs}")
    say(f"Greedy tokens of {len(found['ours'])} ragged prompts equal those of generate (float32).")


def measure(
    plan: Plan, systems: Sequence[str], precision: str, names: Sequence[str], say: Say
) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, float]]:
    """Every timing in `precision`, who is absent and why, and our numerics."""
    records: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    numerics: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        running: dict[str, Running] = {}
        for system in systems:
            with unless_absent(system, running, absent, say):
                running[system] = stack.enter_context(started(system, plan, precision, say))
        for number in range(plan.rounds + 1):
            for name in names:
                for system in list(running):
                    if name in NOT_FOR.get(system, ()):
                        continue
                    with unless_absent(system, running, absent, say):
                        record = timed(running[system], plan.workloads[name], name)
                        records.append({"system": system, "precision": precision, "round": number, **record})
                        say(line(records[-1]))
        if OWN in running:
            with unless_absent(OWN, running, absent, say):
                numerics = running[OWN].ask({"do": "numerics"}, seconds=ASK_SECONDS)
    return records, absent, numerics


@contextlib.contextmanager
def unless_absent(system: str, running: dict[str, Running], absent: dict[str, str], say: Say) -> Iterator[None]:
    """A peer that fails leaves the round with a reason. Ours may not."""
    try:
        yield
    except Absent as error:
        if system == OWN:
            raise
        running.pop(system, None)
        absent[system] = str(error)
        say(f"{system} is absent: {error}")


def timed(running: Running, workload: Workload, name: str) -> dict[str, Any]:
    """One whole call, and one for a single token each, which is what the prompts cost."""
    whole = running.ask({"do": "measure", "workload": name}, seconds=ASK_SECONDS)
    if whole["lengths"] != workload.lengths:
        raise Absent(f"{running.peer} wrote {sum(whole['lengths'])} tokens where {workload.num_tokens} were asked for")
    first = running.ask({"do": "measure", "workload": name, "new": 1}, seconds=ASK_SECONDS)
    return {
        "workload": name,
        "seconds": whole["seconds"],
        "tokens": workload.num_tokens,
        "tokens_per_second": workload.num_tokens / whole["seconds"],
        "prefill_seconds": first["seconds"],
        "step_ms": 1000 * (whole["seconds"] - first["seconds"]) / (max(workload.lengths) - 1),
        "peak_gb": whole["device_peak_gb"] or running.peak_memory_gb(),
        **{key: value for key, value in whole.items() if key not in ("seconds", "lengths", "device_peak_gb")},
    }


def line(record: Mapping[str, Any]) -> str:
    """Progress; warm-ups are named."""
    when = "warm-up" if record["round"] == 0 else f"round {record['round']}"
    what = f"{record['system']:12s} {record['workload']:15s} {record['precision']:9s}"
    return f"{when:8s} {what} {record['tokens_per_second']:8.0f} tokens/s, prompts {record['prefill_seconds']:.2f} s"


def checked(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, or the parser's error."""
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    return options


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--model", default="smollm2", help="smollm2, a folder, or 135m, 0.5b, 1.5b with random weights")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=list(PRECISIONS),
        default=["bfloat16", "float32"],
        help="the first on every workload, the others on different prompts",
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=64, help="tokens (mean)")
    parser.add_argument("--new", type=int, default=64, help="tokens (most)")
    parser.add_argument("--rounds", type=int, default=3, help="behind one that warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", nargs="*", choices=SYSTEMS[1:], default=list(SYSTEMS[1:]))
    parser.add_argument("--workloads", nargs="+", help="some of them; default: all")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "rollout")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print the ratios as JSON in the last line."""
    options = checked(make_parser(), arguments)
    folder = model_folder(options.model)
    source = source_tokens(folder, options.prompt + options.prompt // 8)
    all_work = workloads(source, rows=options.rows, prompt=options.prompt, new=options.new)
    names = [name for name in all_work if name != "greedy" and name in (options.workloads or all_work)]
    systems = [OWN, *options.peers]
    records: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    numerics: dict[str, dict[str, float]] = {}
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "work.json"
        work.write_text(json.dumps({name: one.as_dict() for name, one in all_work.items()}))
        device = pick_device(options.device)
        plan = Plan(folder, device, options.threads, options.rounds, work, all_work)
        check_greedy(plan, tell)
        for number, precision in enumerate(options.precision):
            asked = names if number == 0 else [name for name in names if name == MAIN]
            found, missing, difference = measure(plan, systems, precision, asked, tell)
            records += found
            absent |= missing
            numerics[precision] = difference
    words = sys.argv[1:] if arguments is None else arguments
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "benchmarks.rollout", *words]),
        "machine": describe_machine(),
        "code": describe_commit(HERE),
        "load_before": load_before,
        "threads": options.threads,
        "model": options.model,
        "shape": {"rows": options.rows, "prompt": options.prompt, "new": options.new},
    }
    cells = cells_of(records)
    found_ratios = ratios(cells, main_precision=options.precision[0])
    results = {
        **about,
        "ratios": found_ratios,
        "absent": absent,
        "numerics": numerics,
        "medians": cells,
        "records": records,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output / "results.json", json.dumps(results, indent=1) + "\n")
    shown = table(cells, found_ratios, absent, numerics, about, main_precision=options.precision[0])
    write_atomically(options.output / "table.md", shown)
    tell(shown)
    print(json.dumps({"benchmark": "rollout", "ratios": found_ratios}))


def tell(text: str) -> None:
    """Progress, at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
