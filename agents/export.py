"""A run's trained policy as a plain Hugging Face folder, for `from_pretrained` and everything that reads such folders.

    python -m agents.export run=runs/<name> to=my-model
    python -m agents.export run=runs/<name> to=my-model checkpoint=best dtype=bfloat16
    python -m agents.export run=runs/<name> to=my-model adapter=true     # the LoRA adapter too, in my-model/adapter

The weights are the float32 masters that were trained, or their bfloat16 rounding. An adapter is merged into them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from agents.card import SETTINGS, card
from agents.policy.hardware import PRECISIONS
from agents.policy.loading import resolve
from agents.policy.lora import merge, save_adapter
from agents.require import require, require_run
from agents.saved import CONF, Saved, is_own_tokenizer, load_policy, open_run, tokenizer_for
from textenv import load_task


@dataclass
class ExportConfig:
    """Settings of `python -m agents.export`."""

    run: str | None = None
    """Folder of a run."""
    to: str | None = None
    """The folder to write; must not hold anything yet."""
    checkpoint: str = "last"
    """`last`, `best` on held-out problems, or an iteration."""
    dtype: str = "float32"
    """`float32`, as the weights were trained, or `bfloat16` at half the size."""
    adapter: bool = False
    """Of a run with `policy.lora`: also write the adapter alone, in peft's format, to the folder `adapter` in `to`."""

    def __post_init__(self) -> None:
        require_run(self.run)
        require(self.to is not None, "to must be given, the folder to write: to=my-model")
        require(self.dtype in PRECISIONS, f"dtype must be {' or '.join(PRECISIONS)}, got {self.dtype!r}")


ConfigStore.instance().store(name="export_schema", node=ExportConfig)


def export(
    run: str,
    to: str,
    *,
    which: str = "last",
    dtype: str = "float32",
    adapter: bool = False,
    say: Callable[[str], None],
) -> Path:
    """Write the folder `to`, all of it or nothing.

    Raises `ValueError` when it holds something already, for a run that cannot be read (see `open_run`), and where an
    adapter is asked for that would be of no use.
    """
    target = Path(to).expanduser()
    check_free(target)
    saved = open_run(run, which, say)
    if adapter:
        check_adapter(saved)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        write_folder(saved, part, dtype, adapter, say)
        (part / "README.md").write_text(card(saved, which, target.name, dtype))
        part.chmod(0o755)
        check_free(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def check_free(target: Path) -> None:
    """Raise `ValueError` unless `target` can be written without touching anything."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        raise ValueError(f"to={target} is there already and is never overwritten: choose another folder")


def check_adapter(saved: Saved) -> None:
    """Raise `ValueError` unless the run trained an adapter of a model that others can have."""
    if saved.config.policy.adapter is None:
        raise ValueError(
            f"adapter=true needs a run with policy.lora.rank above 0; {saved.folder.path} trained all weights"
        )
    if is_own_tokenizer(saved.config.policy):
        raise ValueError(
            f"adapter=true needs a model that can be loaded again; policy.model={saved.config.policy.model} is random: "
            "the merged export holds it whole"
        )


def write_folder(saved: Saved, folder: Path, dtype: str, adapter: bool, say: Callable[[str], None]) -> None:
    """Weights, configuration, tokenizer with its chat template, and the settings of the run."""
    config = saved.config
    task = load_task(config.task) if is_own_tokenizer(config.policy) else None
    tokenizer = tokenizer_for(config.policy, task, say)
    policy = load_policy(
        config.policy,
        len(tokenizer),
        weights=saved.weights,
        device="cpu",
        precision="float32",
        seed=config.seed,
        merged=not adapter,
        say=say,
    )
    if adapter:
        save_adapter(policy.model, folder / "adapter", trained_on=resolve(config.policy.model, say))
        merge(policy.model)
    model = policy.model.model
    model.set_attn_implementation("eager")  # ours has a name that other programs do not know
    model.to(PRECISIONS[dtype]).save_pretrained(folder)
    if is_own_tokenizer(config.policy):
        say(f"This model reads characters ({tokenizer.name!r}): it has no Hugging Face tokenizer to export.")
    else:
        AutoTokenizer.from_pretrained(resolve(config.policy.model, say)).save_pretrained(folder)
    shutil.copyfile(saved.folder.config, folder / SETTINGS)


@hydra.main(version_base="1.3", config_path=CONF, config_name="export")
def main(composed: DictConfig) -> None:
    """Compose, export, tell."""
    disable_progress_bar()
    try:
        config: Any = OmegaConf.to_object(composed)
        folder = export(
            config.run, config.to, which=config.checkpoint, dtype=config.dtype, adapter=config.adapter, say=print
        )
    except (ValueError, OmegaConfBaseException) as error:
        sys.exit(f"error: {error}")
    size = sum(file.stat().st_size for file in folder.rglob("*"))
    print(f"Wrote {folder} ({size / 1e6:.0f} MB): {', '.join(sorted(file.name for file in folder.iterdir()))}")


if __name__ == "__main__":
    main()
