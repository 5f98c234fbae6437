"""The Hugging Face adapter of `textenv.tokenizer`; transformers is imported when one is built, not before.

It works on a copy of its own, so that padding side, truncation and the like of a caller's tokenizer stay as they are.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rewards.types import Message
from textenv.tokenizer import Tokens


class HuggingFaceTokenizer:
    """A tokenizer by name, folder (a folder with one GGUF file will do) or object."""

    def __init__(self, name_or_path: Any) -> None:
        named = isinstance(name_or_path, str | os.PathLike)
        self._tokenizer: Any = _load(os.fspath(name_or_path)) if named else copy.deepcopy(name_or_path)
        self.name = os.fspath(name_or_path) if named else str(name_or_path.name_or_path)
        end = self._tokenizer.eos_token_id
        ends = frozenset([] if end is None else [end]) | _generation_end_ids(self.name)
        self.end_ids = frozenset(token for token in ends if token < len(self._tokenizer))  # the rest cannot be acted
        pad = self._tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else min(self.end_ids, default=0)
        self.start_ids = tuple(_leading(self._tokenizer))
        self._size = len(self._tokenizer)

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text, neither BOS nor EOS added."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def decode(self, ids: Tokens, *, skip_special: bool = True) -> str:
        """Text of tokens, spaces untouched."""
        ids = np.asarray(ids, dtype=np.int64).tolist()
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)

    def decode_batch(self, rows: Sequence[Tokens]) -> list[str]:
        """`decode` of each row."""
        ids = [np.asarray(row).tolist() for row in rows]
        return self._tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int] | None:
        """What the chat template gives; contents that spell a special token are spliced in as plain text.

        Only such messages take the second way, since splicing can move a token boundary.
        """
        if not self._tokenizer.chat_template:
            return None
        chat = [dict(message) for message in messages]
        for message in chat:
            if any(special in message["role"] for special in self._specials):
                raise ValueError(f"a message's role must not spell a special token, got {message['role']!r}")
        if not any(special in message["content"] for special in self._specials for message in chat):
            return self._render(chat, add_generation_prompt, tokenize=True)
        marks = [f"\ue000{index}\ue001" for index in range(len(chat))]
        marked = [message | {"content": mark} for message, mark in zip(chat, marks, strict=True)]
        text = self._render(marked, add_generation_prompt, tokenize=False)
        return self._splice(text, marks, [message["content"] for message in chat])

    def token_texts(self) -> list[str]:
        """Decoded behind an ordinary token, since some decoders strip the first space of a text."""
        anchor = self.encode("a")[-1]
        skip = len(self.decode([anchor]))
        return [text[skip:] for text in self.decode_batch([[anchor, token] for token in range(len(self))])]

    @cached_property
    def _specials(self) -> tuple[str, ...]:
        added = self._tokenizer.added_tokens_decoder.values()
        return tuple({*self._tokenizer.all_special_tokens, *(token.content for token in added if token.special)})

    def _render(self, chat: list[dict[str, Any]], add_generation_prompt: bool, *, tokenize: bool) -> Any:
        return self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=add_generation_prompt, tokenize=tokenize, return_dict=False
        )

    def _splice(self, text: str, marks: list[str], contents: list[str]) -> list[int]:
        """Tokens of the template's text, with each mark replaced by its content's plain tokens."""
        ids: list[int] = []
        for mark, content in zip(marks, contents, strict=True):
            before, found, text = text.partition(mark)
            if not found:
                raise ValueError(f"the chat template of {self.name} must keep every message, it drops {content!r}")
            ids += self._template_ids(before) + self.encode(content)
        return ids + self._template_ids(text)

    def _template_ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"])


def _load(name: str) -> Any:
    from transformers import AutoTokenizer

    folder = Path(name)
    weights = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    if weights and not (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(name, gguf_file=weights[0].name)
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"tokenizer must be byte, tiny or a Hugging Face one, got {name!r}: {error}") from error


def _generation_end_ids(name: str) -> frozenset[int]:
    """The model's own list of end tokens, where its folder has one (chat models end at more than `eos_token`)."""
    path = _generation_config(name)
    if path is None or not path.is_file():
        return frozenset()
    end = json.loads(path.read_text()).get("eos_token_id")
    return frozenset([] if end is None else [end] if isinstance(end, int) else end)


def _generation_config(name: str) -> Path | None:
    if not name or Path(name).is_dir():
        return Path(name) / "generation_config.json" if name else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(name, "generation_config.json"))
    except (OSError, ValueError, HfHubHTTPError):
        return None  # the repository has none, or the hub is out of reach


def _leading(tokenizer: Any) -> list[int]:
    """BOS, where the tokenizer puts one before a text."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][0] == bos else []
