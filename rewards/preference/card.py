"""`reward_model.json` and the checks of a reward model's folder that need neither torch nor the weights.

A folder holds `reward_model.json`, `head.safetensors`, `backbone/` and `tokenizer/`. The tokenizer's files, chat
template included, are fingerprinted: weights read through another tokenizer would give numbers without meaning.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

CARD = "reward_model.json"
HEAD = "head.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What a saved reward model says of itself."""

    max_length: int
    """Most tokens it reads."""
    prompts: str
    """What it was trained on: `text`, `messages` or `both`."""
    chat_template: str | None
    """For people; the fingerprint covers it."""
    tokenizer_sha256: str
    """Of the files in `tokenizer/`."""
    mean: float = 0.0
    """Mean of the raw scores on the reference pairs, frozen when training ended."""
    std: float = 1.0
    """Their standard deviation, above 0."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings, data and results of the training."""
    format: int = FORMAT
    """Of this file."""


def write_card(folder: Path, card: Card) -> None:
    """Write `reward_model.json`."""
    (folder / CARD).write_text(json.dumps(asdict(card), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_card(folder: str | Path, *, name: str = "path") -> Card:
    """The card of a complete folder.

    Raises `ValueError` naming the setting `name` where the folder, a file or a weight is missing or damaged, or the
    tokenizer is not the one it was trained with. No weight is loaded.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise ValueError(f"{name} must be a reward model's folder, {folder} has no {CARD}")
    card = _parse_card(folder / CARD)
    for part in ("backbone/config.json", "tokenizer/tokenizer_config.json", HEAD):
        if not (folder / part).is_file():
            raise ValueError(f"{name} must be a complete reward model, {folder} lacks {part}")
    found = fingerprint(folder / "tokenizer")
    if found != card.tokenizer_sha256:
        rule = f"the tokenizer it was trained with (sha256 {card.tokenizer_sha256[:12]})"
        raise ValueError(f"{name} must hold {rule}, the files in {folder / 'tokenizer'} have {found[:12]}")
    _check_weights(folder, name)
    return card


def fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents of a folder's files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def check_free(folder: str | Path, *, overwrite: bool, name: str = "output") -> None:
    """Raises `ValueError` where writing the folder would destroy something that may not be destroyed."""
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / CARD).is_file():
        raise ValueError(f"{name} must be a new folder or a reward model, {folder} exists and is neither")
    if not overwrite:
        raise ValueError(f"{name} must be a new folder unless overwrite=true, {folder} holds a reward model")


@contextmanager
def written_at_once(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill that takes the name `folder` when the block ends well and vanishes when it does not."""
    folder = Path(folder)
    check_free(folder, overwrite=overwrite)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        yield partial
        check_free(folder, overwrite=overwrite)
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(new: Path, folder: Path) -> None:
    old = new.with_name(new.name + "-old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _parse_card(path: Path) -> Card:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        card = Card(**{key.name: row[key.name] for key in fields(Card)})
        valid = card.max_length >= 1 and math.isfinite(card.mean) and card.std > 0 and len(card.tokenizer_sha256) == 64
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} must be a reward model's card, it does not read: {error!r}") from error
    if card.format != FORMAT or not valid:
        raise ValueError(f"{path} must be a card of format {FORMAT} with valid numbers, got format {card.format}")
    return card


def _check_weights(folder: Path, name: str) -> None:
    """Opens the headers: files that are missing, cut off or of another shape are found without reading the tensors."""
    index = folder / "backbone" / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    for path in (folder / HEAD, *(folder / "backbone" / shard for shard in sorted(shards))):
        if not path.is_file():
            raise ValueError(f"{name} must hold all weights, {folder} lacks {path.relative_to(folder)}")
        try:
            with safe_open(path, framework="numpy") as weights:
                keys = set(weights.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{name} must hold readable weights, {path} is damaged: {error}") from error
        if path.name == HEAD and keys != {"weight"}:
            raise ValueError(f"{name} must hold a head with the one tensor weight, {path} has {sorted(keys)}")
