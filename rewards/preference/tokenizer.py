"""Tokenizers for the reward model: bytes, made here; or those that come with a model."""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

BYTE_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte of UTF-8, then end and padding; no download.

    >>> tokenizer = byte_tokenizer()
    >>> len(tokenizer), tokenizer.decode(tokenizer("2+2 = vier €")["input_ids"])
    (258, '2+2 = vier €')
    """
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", chat_template=BYTE_TEMPLATE
    )


def check_model(model: str) -> None:
    """Raises `ValueError` where a setting `model` cannot be one: without asking the hub, without loading weights."""
    folder = Path(model)
    if not folder.is_dir():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model):
            raise ValueError(f"model must be tiny, a folder that exists or a hub name, got {model}")
        return
    if not (folder / "config.json").is_file():
        raise ValueError(f"model must be a folder with a config.json, {model} has none")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ValueError(f"model must be a folder with weights (*.safetensors or *.bin), {model} has none")


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name; `ValueError` where there is none, or one that knows no end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model must be a folder or hub name with a tokenizer, got {model}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ValueError(f"model must have a tokenizer with an EOS token, got {model}")
    return tokenizer
