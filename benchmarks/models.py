"""The model a benchmark runs on, as a plain Hugging Face folder that every peer can read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from agents.policy.hardware import cache_folder
from agents.policy.loading import resolve

Say = Callable[[str], None]


def shapes() -> dict[str, PretrainedConfig]:
    """Known shapes by size, for machines to which no weights can be brought: random ones are as fast."""
    common: dict[str, Any] = {
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return {
        "tiny": LlamaConfig(**layout(512, 64, 128, 2, 4, 2), **common),
        "135m": LlamaConfig(**layout(49152, 576, 1536, 30, 9, 3), **common),
        "0.5b": Qwen2Config(**layout(151936, 896, 4864, 24, 14, 2), **common),
        "1.5b": Qwen2Config(**layout(151936, 1536, 8960, 28, 12, 2), **common),
    }


def layout(vocabulary: int, hidden: int, feed_forward: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    """The numbers of a decoder under their Hugging Face names."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


def model_folder(name: str, say: Say = print) -> Path:
    """The folder behind `smollm2`, a folder's own name, or a size in `shapes`, whose random weights are written once.

    They are stored in bfloat16, so that every number format reads the same values. Raises `ValueError` for a folder
    that is none.
    """
    if name not in shapes():
        return Path(resolve(name, say))
    target = cache_folder() / f"random-{name}"
    if target.is_dir():
        return target
    say(f"Writing random weights of the shape {name} to {target} (once) ...")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(shapes()[name], dtype=torch.bfloat16)
        model.save_pretrained(part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
