"""A training from the file of judgements to the folder of the reward model."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from rewards.preference.card import check_free, written_at_once
from rewards.preference.config import TrainConfig
from rewards.preference.data import Preference, read_preferences, split_preferences
from rewards.preference.encoding import EncodedPreference, encode_preferences
from rewards.preference.evaluation import Metrics, all_scores, as_text, evaluate, reference_statistics
from rewards.preference.fitting import batches, fit, make_optimizer
from rewards.preference.interrupt import Interrupt
from rewards.preference.lora import add_adapter, remove_adapter
from rewards.preference.model import ScalarHead, choose_device, load_backbone, tiny_backbone
from rewards.preference.storage import save
from rewards.preference.tokenizer import byte_tokenizer, check_model, load_tokenizer
from rewards.preference.unfinished import COMMAND, Stopped, Unfinished, log_step

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainingData:
    """Everything known before a weight is loaded."""

    tokenizer: PreTrainedTokenizerBase
    train: list[EncodedPreference]
    eval: list[EncodedPreference]
    prompts: str


def train(config: TrainConfig, *, console: Console | None = None) -> dict[str, Any]:
    """Train, save the folder `config.output`, and return its summary.

    Raises `ValueError` for settings, data or models that do not fit, before weights are loaded where that is possible;
    whatever happens, the folder appears whole or not at all. Ctrl-C raises `Stopped`, with the state saved in
    `<output>.unfinished`; with `config.resume` the training goes on from there, to the same weights.
    """
    console = console or Console(stderr=True)
    check_free(config.output, overwrite=config.overwrite)
    unfinished = Unfinished.of(config.output)
    unfinished.check(config)
    try:
        return _train(config, unfinished, console)
    except Stopped:
        raise
    except KeyboardInterrupt as error:
        if not unfinished.exists():
            raise
        raise Stopped(_how_to_go_on(config, unfinished, "left at once")) from error


def _train(config: TrainConfig, unfinished: Unfinished, console: Console) -> dict[str, Any]:
    device = choose_device(config.device)
    data = prepare(config)
    network = build_network(config, data.tokenizer).to(device)
    unfinished.begin(config)
    seconds = _fit(network, data.train, config, unfinished, console)
    started = time.monotonic()
    remove_adapter(network.backbone, merge=True)  # a plain model from here on, for the statistics as on the disk
    reference = data.eval or data.train
    scores = all_scores(network, reference, batch_rows=_rows_at_once(config, reference))
    summary = {
        "eval": evaluate(scores, reference) if data.eval else None,
        "train_judgements": len(data.train),
        "seconds": round(seconds + time.monotonic() - started, 2),
        "learning_rate": peak_learning_rate(config),
    }
    training = {"settings": asdict(config), **summary}
    with written_at_once(config.output, overwrite=config.overwrite) as folder:
        about: dict[str, Any] = {"max_length": config.max_length, "prompts": data.prompts, "training": training}
        save(folder, network, data.tokenizer, **about | reference_statistics(scores))
        (folder / "summary.json").write_text(json.dumps({**summary, "settings": asdict(config)}, indent=2) + "\n")
        shutil.copyfile(unfinished.metrics, folder / "metrics.jsonl")
    unfinished.remove()
    _show(summary, config, console)
    return summary


def prepare(config: TrainConfig) -> TrainingData:
    """Read, check, split and tokenize the judgements."""
    found = read_preferences(config.data, ties=config.ties, loss=config.loss)
    if config.eval_data is None:
        train_part, eval_part = split_preferences(found, eval_share=config.eval_share, seed=config.seed)
    else:
        train_part = found
        eval_part = read_preferences(config.eval_data, ties=config.ties, loss=config.loss)
    tokenizer = _tokenizer(config.model)

    def encode(part: Sequence[Preference]) -> list[EncodedPreference]:
        return encode_preferences(tokenizer, part, max_length=config.max_length, too_long=config.too_long)

    return TrainingData(tokenizer, encode(train_part), encode(eval_part), _prompt_kinds(found))


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


def _fit(
    network: ScalarHead,
    preferences: Sequence[EncodedPreference],
    config: TrainConfig,
    unfinished: Unfinished,
    console: Console,
) -> float:
    """Train from where the state is to the end; the seconds it took in all. What fails before a state was saved, or
    fails for its numbers, leaves nothing: another attempt would fail at the same step."""
    optimizer = make_optimizer(network, config)
    done, before = unfinished.restore(network, optimizer)
    total, started = len(batches(preferences, config)), time.monotonic()
    steps = fit(network, optimizer, preferences, config, learning_rate=peak_learning_rate(config), done=done)
    try:
        with (
            unfinished.metrics.open("a", encoding="utf-8") as lines,
            _bar(console, total, done) as progress,
            Interrupt(lambda text: console.print(text, markup=False), unit="step") as interrupt,
        ):
            for step, metrics in steps:
                log_step(lines, step, metrics)
                _advance(progress, step, metrics)
                if interrupt.requested or (step % config.checkpoint_every == 0 and step < total):
                    unfinished.save(step, before + time.monotonic() - started, network, optimizer)
                if interrupt.requested:
                    raise Stopped(_how_to_go_on(config, unfinished, f"stopped after step {step} of {total}"))
    except ArithmeticError:
        unfinished.remove()
        raise
    except Exception:
        if not unfinished.state.is_file():
            unfinished.remove()
        raise
    return before + time.monotonic() - started


def _how_to_go_on(config: TrainConfig, unfinished: Unfinished, what: str) -> str:
    return f"{what}; {unfinished.path} holds the state. Go on with: {COMMAND} resume={config.output}"


def _bar(console: Console, total: int, done: int) -> Progress:
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    numbers = TextColumn("loss {task.fields[loss]:.3f}  pair accuracy {task.fields[accuracy]:.3f}")
    progress = Progress(*columns, numbers, console=console)
    progress.add_task("", total=total, completed=done, loss=float("nan"), accuracy=float("nan"))
    return progress


def _advance(progress: Progress, step: int, metrics: Metrics) -> None:
    """Show running means: a batch alone says little."""
    task = progress.tasks[0]
    smooth: dict[str, Any] = {}
    for name in ("loss", "accuracy"):
        value, shown = metrics[name] or 0.0, task.fields[name]
        smooth[name] = value if shown != shown else 0.95 * shown + 0.05 * value
    progress.update(task.id, completed=step, **smooth)


def _rows_at_once(config: TrainConfig, preferences: Sequence[EncodedPreference]) -> int:
    """As many responses as a forward of training has."""
    return (config.microbatch_size or config.batch_size) * max(len(p.rows) for p in preferences)


def _prompt_kinds(preferences: Sequence[Preference]) -> str:
    kinds = {"text" if isinstance(preference.prompt, str) else "messages" for preference in preferences}
    return "both" if len(kinds) == 2 else kinds.pop()


def _show(summary: dict[str, Any], config: TrainConfig, console: Console) -> None:
    table = Table(title=f"reward model: {config.output}", title_justify="left", show_header=False)
    table.add_row("training judgements", str(summary["train_judgements"]))
    table.add_row("seconds", str(summary["seconds"]))
    for name, shown in as_text(summary["eval"] or {}):
        table.add_row(f"held-out {name}", shown)
    console.print(table)
    if summary["eval"] is None:
        console.print("no held-out judgements (eval_share=0): nothing is known of its accuracy")
