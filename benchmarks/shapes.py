"""The models and prompts that benchmarks run on: a folder of weights, or one of well-known sizes with random weights.

Random weights serve where none can be brought: speed does not depend on them. Every peer reads the same folder.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config
from transformers.models.llama import LlamaConfig

from agents.policy.loading import resolve
from textenv.tokenizer import load_tokenizer

FOLDER = Path(__file__).resolve().parents[1] / "runs" / "shapes"
END = "<end>"
SHAPES: dict[str, tuple[Callable[..., Any], dict[str, int]]] = {
    "135m": (LlamaConfig, {"layers": 30, "hidden": 576, "inner": 1536, "heads": 9, "kv": 3, "vocabulary": 49152}),
    "0.5b": (Qwen2Config, {"layers": 24, "hidden": 896, "inner": 4864, "heads": 14, "kv": 2, "vocabulary": 151936}),
    "1.5b": (Qwen2Config, {"layers": 28, "hidden": 1536, "inner": 8960, "heads": 12, "kv": 2, "vocabulary": 151936}),
    "tiny": (LlamaConfig, {"layers": 2, "hidden": 64, "inner": 128, "heads": 4, "kv": 2, "vocabulary": 512}),
}
"""SmolLM2-135M, Qwen2.5-0.5B and -1.5B; `tiny` tries a benchmark out."""
_WORD = re.compile(r"[a-z0-9]+")


def model_folder(name: str, say: Callable[[str], None] = print, folder: Path = FOLDER) -> Path:
    """A plain Hugging Face folder for `smollm2`, a folder, or a shape, whose random weights are written once."""
    if name not in SHAPES:
        found = Path(resolve(name, say)).resolve()
        if not found.is_dir():
            raise ValueError(f"model must be smollm2, a folder, or one of {', '.join(SHAPES)}, got {name!r}")
        return found
    target = folder / name
    if not target.is_dir():
        say(f"Writing random weights of the shape {name} to {target} (once) ...")
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder, prefix=".writing-"))
        try:
            write_random(name, part)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def write_random(name: str, folder: Path) -> None:
    """A model of the shape in bfloat16, and a tokenizer of as many words."""
    make, n = SHAPES[name]
    config = make(
        num_hidden_layers=n["layers"],
        hidden_size=n["hidden"],
        intermediate_size=n["inner"],
        num_attention_heads=n["heads"],
        num_key_value_heads=n["kv"],
        vocab_size=n["vocabulary"],
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    words = {END: 0} | {f"w{i}": i for i in range(1, n["vocabulary"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, unk_token=END, clean_up_tokenization_spaces=False
    ).save_pretrained(folder)


def make_prompts(folder: Path, count: int, num_tokens: int, seed: int = 0) -> list[str]:
    """Different texts of exactly `num_tokens` tokens each, which are words of the model's own tokenizer.

    Raises `ValueError` where its tokenizer does not keep words whole.
    """
    tokenizer = load_tokenizer(str(folder))
    generator = np.random.default_rng(seed)
    length = num_tokens - len(tokenizer.start_ids)
    words: list[str] = []
    for token in generator.permutation(len(tokenizer))[:20_000].tolist():
        word = tokenizer.decode([token]).strip()
        if _WORD.fullmatch(word) and tokenizer.encode(f" {word}") == [token]:
            words.append(word)
        if len(words) == 500:
            break
    texts = ["".join(f" {word}" for word in generator.choice(words, length)) for _ in range(count)] if words else []
    if length < 1 or len({*texts}) < count or any(len(tokenizer.encode(text)) != length for text in texts):
        raise ValueError(f"{count} prompts of {num_tokens} tokens cannot be made from the tokenizer in {folder}")
    return texts
