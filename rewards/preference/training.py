"""A training from the file of pairs to the folder of the reward model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from rewards.preference.card import check_free, written_at_once
from rewards.preference.config import TrainConfig
from rewards.preference.data import Preference, read_preferences, split_preferences
from rewards.preference.encoding import EncodedPair, encode_preferences
from rewards.preference.evaluation import Metrics, all_scores, evaluate, reference_statistics
from rewards.preference.fitting import fit, num_steps
from rewards.preference.lora import add_adapter, remove_adapter
from rewards.preference.model import ScalarHead, choose_device, load_backbone, tiny_backbone
from rewards.preference.storage import save
from rewards.preference.tokenizer import byte_tokenizer, check_model, load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainingData:
    """Everything known before a weight is loaded."""

    tokenizer: PreTrainedTokenizerBase
    train: list[EncodedPair]
    eval: list[EncodedPair]
    prompts: str


def train(config: TrainConfig, *, console: Console | None = None) -> dict[str, Any]:
    """Train, save the folder `config.output`, and return its summary.

    Raises `ValueError` for settings, data or models that do not fit, before weights are loaded where that is possible;
    whatever happens, the folder appears whole or not at all.
    """
    console = console or Console(stderr=True)
    started = time.monotonic()
    check_free(config.output, overwrite=config.overwrite)
    device = choose_device(config.device)
    data = prepare(config)
    network = build_network(config, data.tokenizer).to(device)
    with written_at_once(config.output, overwrite=config.overwrite) as folder:
        _fit_and_log(network, data.train, config, folder / "metrics.jsonl", console)
        remove_adapter(network.backbone, merge=True)  # a plain model from here on, for the statistics as on the disk
        reference = data.eval or data.train
        scores = all_scores(network, reference, batch_rows=2 * (config.microbatch_pairs or config.batch_pairs))
        summary = {
            "eval": evaluate(*scores, reference) if data.eval else None,
            "train_pairs": len(data.train),
            "seconds": round(time.monotonic() - started, 2),
            "learning_rate": peak_learning_rate(config),
        }
        statistics = reference_statistics(*scores)
        training = {"settings": asdict(config), **summary}
        save(
            folder,
            network,
            data.tokenizer,
            max_length=config.max_length,
            prompts=data.prompts,
            **statistics,
            training=training,
        )
        (folder / "summary.json").write_text(json.dumps({**summary, "settings": asdict(config)}, indent=2) + "\n")
    _show(summary, config, console)
    return summary


def prepare(config: TrainConfig) -> TrainingData:
    """Read, check, split and tokenize the pairs."""
    pairs = read_preferences(config.data)
    if config.eval_data is None:
        train_pairs, eval_pairs = split_preferences(pairs, eval_share=config.eval_share, seed=config.seed)
    else:
        train_pairs, eval_pairs = pairs, read_preferences(config.eval_data)
    tokenizer = _tokenizer(config.model)

    def encode(part: Sequence[Preference], name: str) -> list[EncodedPair]:
        return encode_preferences(tokenizer, part, max_length=config.max_length, too_long=config.too_long, name=name)

    return TrainingData(
        tokenizer,
        encode(train_pairs, f"training part of {config.data}"),
        encode(eval_pairs, config.eval_data or f"held-out part of {config.data}"),
        _prompt_kinds(pairs),
    )


def build_network(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> ScalarHead:
    """The untrained network; its random weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.model == "tiny":
            backbone = tiny_backbone(config.tiny, vocab_size=len(tokenizer), max_length=config.max_length)
        else:
            backbone = load_backbone(config.model)
        longest = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and config.max_length > longest:
            raise ValueError(f"max_length must be at most the model's {longest} positions, got {config.max_length}")
        network = ScalarHead(backbone, compute=DTYPES[config.compute])
    if config.lora.rank:
        add_adapter(backbone, config.lora, seed=config.seed)
    return network


def peak_learning_rate(config: TrainConfig) -> float:
    """The setting, or its default for the kind of model."""
    if config.learning_rate is not None:
        return config.learning_rate
    if config.model == "tiny":
        return 2e-3
    return 1e-4 if config.lora.rank else 1e-5


def _tokenizer(model: str) -> PreTrainedTokenizerBase:
    if model == "tiny":
        return byte_tokenizer()
    check_model(model)
    return load_tokenizer(model)


def _fit_and_log(
    network: ScalarHead, pairs: Sequence[EncodedPair], config: TrainConfig, path: Path, console: Console
) -> None:
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    numbers = TextColumn("loss {task.fields[loss]:.3f}  pair accuracy {task.fields[accuracy]:.3f}")
    smooth: dict[str, float] = {}
    with path.open("w", encoding="utf-8") as lines, Progress(*columns, numbers, console=console) as progress:
        task = progress.add_task("", total=num_steps(len(pairs), config), loss=0.0, accuracy=0.0)

        def report(step: int, metrics: Metrics) -> None:
            lines.write(json.dumps({"step": step, **metrics}) + "\n")
            for name in ("loss", "accuracy"):
                value = metrics[name] or 0.0
                smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
            progress.update(task, completed=step, loss=smooth["loss"], accuracy=smooth["accuracy"])

        fit(network, pairs, config, learning_rate=peak_learning_rate(config), report=report)


def _prompt_kinds(pairs: Sequence[Preference]) -> str:
    kinds = {"text" if isinstance(pair.prompt, str) else "messages" for pair in pairs}
    return "both" if len(kinds) == 2 else kinds.pop()


def _show(summary: dict[str, Any], config: TrainConfig, console: Console) -> None:
    table = Table(title=f"reward model: {config.output}", title_justify="left", show_header=False)
    table.add_row("training pairs", str(summary["train_pairs"]))
    table.add_row("seconds", str(summary["seconds"]))
    for name, value in (summary["eval"] or {}).items():
        shown = "-" if value is None else f"{value:.0f}" if name == "pairs" else f"{value:.3f}"
        table.add_row(f"held-out {name.replace('_', ' ')}", shown)
    console.print(table)
    if summary["eval"] is None:
        console.print("no held-out pairs (eval_share=0): nothing is known of its accuracy")
