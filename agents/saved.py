"""The trained policy of a run's folder: settings through the typed configuration, weights from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents import checkpoint
from agents.config import PolicyConfig, TrainConfig, from_settings
from agents.master_weights import trained_parameters
from agents.policy import Policy, Sampling
from agents.policy.hardware import pick_device, pick_dtype
from agents.policy.loading import TINY
from agents.policy.lora import adapt, merge
from agents.run_folder import RunFolder
from agents.setup import build_model, tokenizer_of
from textenv import Task, Tokenizer, load_tokenizer

CONF = str(Path(__file__).resolve().parents[1] / "conf")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Saved:
    """A run as it lies on the disk."""

    folder: RunFolder
    config: TrainConfig
    iteration: int
    """Of the checkpoint that was chosen."""
    weights: Mapping[str, Tensor]
    """The policy's float32 masters: all weights, or the adapter's."""
    counters: Mapping[str, Any] = field(default_factory=dict)
    """How far the run had come: `agents.run.Counters`."""
    made_of: Mapping[str, Any] = field(default_factory=dict)
    """What it began with: `agents.fingerprint`."""


def open_run(path: str, which: str = "last", say: Say = print) -> Saved:
    """A run's settings and the weights of its checkpoint `which`: `last`, `best` on held-out problems, or an iteration.

    Raises `ValueError` for a folder that is not a run's, and where that checkpoint is not there or not intact.
    """
    folder = RunFolder(Path(path))
    config = saved_config(folder)
    iteration, state = checkpoint.load(folder.path, chosen_iteration(folder, which), say=say)
    weights = state["agent"]["optimizer"]["actor"]
    return Saved(folder, config, iteration, weights, state["counters"], state.get("made_of", {}))


def saved_config(folder: RunFolder) -> TrainConfig:
    """The settings that a run was started with. Raises `ValueError` where they are not those of a run."""
    settings = folder.settings()
    try:
        return from_settings(settings)
    except ValueError as error:
        raise ValueError(f"{folder.config} does not hold the settings of a run: {error}") from error


def chosen_iteration(folder: RunFolder, which: str) -> int | None:
    """The iteration that `which` names; None lets the newest intact one be taken."""
    if which == "last":
        return None
    if which == "best":
        return checkpoint.best_iteration(folder.path)
    if not which.isdecimal():
        raise ValueError(f"checkpoint must be last, best or an iteration, got {which!r}")
    return int(which)


def tokenizer_for(config: PolicyConfig, task: Task | None, say: Say = print) -> Tokenizer:
    """The model's own; for a random model the task's, or bytes."""
    name = tokenizer_of(config, say)
    own = getattr(task, "tokenizer", None)
    return load_tokenizer(name) if name else load_tokenizer("byte") if own is None else own()


def load_policy(
    config: PolicyConfig,
    num_actions: int,
    *,
    weights: Mapping[str, Tensor] | None = None,
    sampling: Sampling | None = None,
    device: str = "auto",
    precision: str | None = None,
    seed: int = 0,
    merged: bool = True,
    say: Say = print,
) -> Policy:
    """A policy that only acts: of `weights`, or the untrained one. `seed` is the run's, for a random model.

    An adapter is merged into the weights, before they are rounded, unless `merged` is False. Raises `ValueError` when
    the weights are not those of this model.
    """
    place = pick_device(device)
    model = build_model(config, num_actions, place, seed, say)
    if weights is not None:
        if config.adapter is not None:
            adapt(model, config.adapter, seed=seed)
        load_weights(model, weights, config.model)
        if config.adapter is not None and merged:
            merge(model)
    dtype = pick_dtype(precision or config.precision, place)
    for parameter in model.parameters():
        parameter.requires_grad_(False).data = parameter.data.to(dtype)
    return Policy(
        model, num_actions=num_actions, sampling=sampling or Sampling(config.temperature, config.top_k, config.top_p)
    )


@torch.no_grad()
def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Copy a checkpoint's weights into the parameters that were trained, all of them or none."""
    parameters = trained_parameters(model)
    shapes: dict[str, Any] = {key: tuple(p.shape) for key, p in parameters.items()}
    saved = {key: tuple(w.shape) for key, w in weights.items()}
    if shapes != saved:
        wrong = sorted(key for key in {*shapes, *saved} if shapes.get(key) != saved.get(key))
        raise ValueError(
            f"the checkpoint does not belong to policy.model={name}: {wrong[0]} has the shape {saved.get(wrong[0])} "
            f"in the checkpoint and {shapes.get(wrong[0])} in the model"
        )
    for key, parameter in parameters.items():
        parameter.copy_(weights[key])


def is_own_tokenizer(config: PolicyConfig) -> bool:
    """Whether the model has no tokenizer of its own and reads the task's."""
    return config.model == TINY
