"""A trained reward model as a folder, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from rewards.preference.card import HEAD, Card, fingerprint, read_card, write_card
from rewards.preference.model import ScalarHead, load_backbone
from rewards.preference.tokenizer import load_tokenizer


def save(
    folder: Path,
    network: ScalarHead,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    prompts: str,
    mean: float = 0.0,
    std: float = 1.0,
    training: Mapping[str, Any] | None = None,
) -> Card:
    """Fill a folder (use `card.written_at_once` for one that appears whole) and return its card."""
    network.backbone.save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "tokenizer")
    save_file({"weight": network.head.weight.detach().cpu().contiguous()}, folder / HEAD)
    card = Card(
        max_length=max_length,
        prompts=prompts,
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        tokenizer_sha256=fingerprint(folder / "tokenizer"),
        mean=mean,
        std=std,
        training=training or {},
    )
    write_card(folder, card)
    return card


def load(folder: str | Path, *, device: torch.device, name: str = "path") -> tuple[ScalarHead, PreTrainedTokenizerBase]:
    """Network, in evaluation mode, and tokenizer. Raises `ValueError` as `read_card`, or where weights do not fit."""
    read_card(folder, name=name)
    tokenizer = load_tokenizer(Path(folder) / "tokenizer")
    network = ScalarHead(load_backbone(str(Path(folder) / "backbone"), name=name))
    weight = load_file(Path(folder) / HEAD)["weight"]
    if weight.shape != network.head.weight.shape:
        shapes = f"{tuple(network.head.weight.shape)}, got {tuple(weight.shape)}"
        raise ValueError(f"{name} must hold a head that fits the backbone, of shape {shapes} in {folder}")
    network.head.load_state_dict({"weight": weight})
    return network.to(device).eval(), tokenizer
