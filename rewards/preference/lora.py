"""Low-rank adapters (LoRA, arXiv 2106.09685) on any Hugging Face model, by the library peft.

A chosen linear layer W x becomes W x + (alpha / rank) B A x. W is frozen, A is random, B starts at zero: before it is
trained the adapted model is the model. Reward models train so, and so do policies (`agents.policy.lora`).
Importing this module imports neither torch nor peft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
SHOWN = 12
"""Most names of layers in a message."""


@dataclass
class LoraConfig:
    """An adapter's shape; whoever holds one calls `check` with the name that the user knows it by."""

    rank: int = 0
    """Of the update of each layer; 0: no adapter, all weights are trained."""
    alpha: float | None = None
    """The update is scaled by alpha / rank; null: alpha is twice the rank."""
    dropout: float = 0.0
    """Must be 0: the model that is trained would not be the one that acts."""
    targets: Any = ALL_LINEAR
    """`all-linear` (the head excepted), or the names of linear layers: `[q_proj,v_proj]`."""

    def check(self, name: str) -> None:
        """Raise `ValueError` for a value out of range, calling these settings `name`."""
        if self.rank < 0:
            raise ValueError(f"{name}.rank must be at least 0 (0: no adapter), got {self.rank}")
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ValueError(f"{name}.alpha must be above 0 or null, got {self.alpha}")
        if self.dropout != 0:
            raise ValueError(
                f"{name}.dropout must be 0, got {self.dropout}: with dropout the model that is trained is not the one "
                "that acts and scores, and the first ratio of an update would not be 1"
            )
        if not self.names or not all(isinstance(target, str) and target for target in self.names):
            raise ValueError(f"{name}.targets must be {ALL_LINEAR} or names of layers, got {self.targets!r}")

    @property
    def names(self) -> list[Any]:
        """The targets as a list."""
        return list(self.targets) if isinstance(self.targets, list | tuple) else [self.targets]

    @property
    def scaled_by(self) -> float:
        """The alpha that is used."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The layers that may be adapted, by their full names: all linear ones but the head, which may be tied."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def targeted(model: PreTrainedModel, config: LoraConfig, *, name: str = "lora") -> dict[str, nn.Module]:
    """The layers that `config.targets` names, by their full names; a target is a full name or the end of one.

    Raises `ValueError` for a target that is no linear layer, listing those that there are.
    """
    layers = linear_layers(model)
    if config.names == [ALL_LINEAR]:
        return layers
    unknown = [target for target in config.names if not any(matches(layer, target) for layer in layers)]
    if unknown:
        raise ValueError(
            f"{name}.targets must name linear layers, {', '.join(unknown)} is none in {type(model).__name__}; "
            f"there are {listed(sorted({layer.rpartition('.')[2] for layer in layers}))} (or {ALL_LINEAR})"
        )
    return {layer: m for layer, m in layers.items() if any(matches(layer, target) for target in config.names)}


def matches(layer: str, target: str) -> bool:
    """Whether a layer's full name is `target` or ends with it.

    >>> matches("layers.0.mlp.up_proj", "up_proj"), matches("layers.0.mlp.up_proj", "proj")
    (True, False)
    """
    return f".{layer}".endswith(f".{target}")


def listed(names: Sequence[str]) -> str:
    """Names for a message, not too many of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def add_adapter(model: PreTrainedModel, config: LoraConfig, *, seed: int, name: str = "lora") -> list[str]:
    """Adapt `model` in place and freeze all its other weights; returns the names of the adapted layers.

    A depends on `seed` alone. Raises `ValueError` as `targeted`.
    """
    import peft
    import torch
    from transformers.pytorch_utils import Conv1D

    layers = targeted(model, config, name=name)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.scaled_by,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=list(layers),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)
    return list(layers)


def remove_adapter(model: PreTrainedModel, *, merge: bool) -> None:
    """Put the plain layers back, in place; `merge` adds the adapter to their weights first."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            if merge:
                layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
