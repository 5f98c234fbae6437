"""What rewards hold in memory: reward models and judges that run on this machine, by their shapes, weights unread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig

from rewards.combine import Part
from rewards.judge import LocalModel
from rewards.preference.model import choose_device
from rewards.preference.scoring import RewardModel


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A language model that a reward loads when it is first asked."""

    what: str
    """In words."""
    device: torch.device
    num_bytes: int | None
    """Of its weights; None where the model cannot be looked at before it is loaded."""


def held_models(parts: Mapping[str, Part]) -> dict[str, HeldModel]:
    """By the names of the parts that hold one."""
    found = {name: held_model(part.fn) for name, part in parts.items()}
    return {name: held for name, held in found.items() if held is not None}


def held_model(fn: Any) -> HeldModel | None:
    """A reward's own; None where it needs none."""
    if isinstance(fn, RewardModel):
        shape = shape_of(str(Path(fn.path) / "backbone"))
        return HeldModel(f"a reward model ({fn.path})", choose_device(fn.device), weight_bytes(shape, torch.float32))
    backend: Any = getattr(fn, "backend", None)
    if isinstance(backend, LocalModel):
        device, shape = choose_device(backend.device), shape_of(backend.model)
        return HeldModel(f"a judge ({backend.model})", device, weight_bytes(shape, judging_dtype(shape, device)))
    return None


def held_bytes(parts: Mapping[str, Part], device: torch.device) -> int:
    """Of the weights of all that lie on this device, as far as they can be told."""
    held = held_models(parts).values()
    return sum(one.num_bytes or 0 for one in held if one.device.type == device.type)


def shape_of(model: str) -> PretrainedConfig | None:
    """Of a folder or hub name; None where there is none, of which the reward itself will speak."""
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError):
        return None


def weight_bytes(shape: PretrainedConfig | None, dtype: torch.dtype) -> int | None:
    """Of a body without the head that says tokens, which many models share with the embedding."""
    if shape is None:
        return None
    with torch.device("meta"):
        body: Any = AutoModel.from_config(shape)
    return sum(p.numel() for p in body.parameters()) * dtype.itemsize


def judging_dtype(shape: PretrainedConfig | None, device: torch.device) -> torch.dtype:
    """`LocalModel`'s: float32 on a CPU, elsewhere as the weights were saved."""
    saved = getattr(shape, "dtype", None)
    return saved if device.type != "cpu" and isinstance(saved, torch.dtype) else torch.float32
