"""Low-rank adapters on a policy: several models on one set of frozen weights.

The policy, its reference and a separate critic are three trees of modules over the same parameters: the policy's has
its adapter, the critic's has one of its own, the reference's has none. Nothing is switched on and off, so nothing can
be left in the wrong state, and a model costs no memory but its adapter's.
"""

from __future__ import annotations

import copy
from itertools import chain
from pathlib import Path

from agents.policy.model import LanguageModel
from rewards.preference.lora import LoraConfig, add_adapter, remove_adapter

NAME = "policy.lora"


def adapt(model: LanguageModel, config: LoraConfig, *, seed: int) -> int:
    """Add a fresh adapter in place and freeze all other weights; returns the number of adapted layers.

    Raises `ValueError` for a target that the model does not have.
    """
    return len(add_adapter(model.model, config, seed=seed, name=NAME))


def sharing_weights(model: LanguageModel) -> LanguageModel:
    """Another tree of modules over the very same parameters and buffers."""
    return copy.deepcopy(model, {id(x): x for x in chain(model.parameters(), model.buffers())})


def without_adapter(model: LanguageModel) -> LanguageModel:
    """The model as it was before any training, on the same weights."""
    plain = sharing_weights(model)
    remove_adapter(plain.model, merge=False)
    return plain


def merge(model: LanguageModel) -> None:
    """Add the adapter to the weights, in place: a plain model again, whose logits stay what they are."""
    model.release()  # peft changes weights in a way that torch does not count
    remove_adapter(model.model, merge=True)


def save_adapter(model: LanguageModel, folder: Path, *, trained_on: str) -> None:
    """Write the adapter alone as `PeftModel.from_pretrained` reads it, for the model called `trained_on`."""
    import peft
    from safetensors.torch import save_file

    settings = model.model.peft_config["default"]
    settings.base_model_name_or_path = trained_on
    settings.inference_mode = True
    weights = peft.get_peft_model_state_dict(model.model)
    folder.mkdir()
    settings.save_pretrained(folder)
    prefix = "base_model.model."
    save_file(
        {prefix + name.removeprefix(prefix): w.detach().contiguous() for name, w in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
