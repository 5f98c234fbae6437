"""Prompt and completion to token ids, ids to padded batches.

Prompt and completion are tokenized apart, as a policy writes them, and always the same way in training and scoring.
Special tokens appear once: from the chat template where the prompt is messages, from the tokenizer where it is text.
A completion is only text (`<|im_end|>` inside it is eight characters, not a token) and its end is the tokenizer's EOS.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from jinja2 import TemplateError
from torch import Tensor, tensor
from transformers import PreTrainedTokenizerBase

from rewards.preference.data import Preference, Prompt


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt with a completion, as the network reads it."""

    ids: tuple[int, ...]
    """Ends with EOS."""
    num_completion_tokens: int
    """Of the whole completion, EOS included."""
    num_cut_tokens: int = 0
    """How many were dropped on the left because of `max_length`."""


@dataclass(frozen=True, slots=True)
class EncodedPreference:
    """A judgement in tokens: its responses best first, with their places and levels as in `data.Preference`."""

    rows: tuple[Encoded, ...]
    places: tuple[int, ...]
    levels: tuple[float, ...]


def encode_preferences(
    tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Preference], *, max_length: int, too_long: str
) -> list[EncodedPreference]:
    """All judgements in tokens; what is wrong with one is raised as `ValueError` with its file and line."""
    encoded = []
    for preference in preferences:
        try:
            prompt_ids = encode_prompt(tokenizer, preference.prompt)
            rows = tuple(
                fit(prompt_ids, encode_completion(tokenizer, text), max_length=max_length, too_long=too_long)
                for text in preference.responses
            )
        except ValueError as error:
            raise ValueError(f"{preference.source}: {error}") from error
        encoded.append(EncodedPreference(rows, preference.places, preference.levels))
    return encoded


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The prompt's ids, the template's generation prompt included.

    Raises `ValueError` where messages meet a tokenizer without chat template, or a template that refuses them.
    """
    if isinstance(prompt, str):
        return _encode_text(tokenizer, prompt)
    if not tokenizer.chat_template:
        raise ValueError("a prompt of messages needs a tokenizer with a chat template, this one has none")
    try:
        text = tokenizer.apply_chat_template([dict(m) for m in prompt], tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the prompt: {error}") from error
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """The completion's ids with EOS, the place where the score is read, at the end; an empty one is EOS alone.

    Half of a surrogate pair, which no tokenizer takes, is read as a question mark.
    """
    text = completion.encode("utf-8", "replace").decode()
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def fit(prompt_ids: Sequence[int], completion_ids: Sequence[int], *, max_length: int, too_long: str) -> Encoded:
    """Prompt and completion in at most `max_length` tokens.

    `error` raises `ValueError`; `truncate_prompt` drops the prompt's left and raises where the completion alone is too
    long; `truncate` drops the left of whatever is there and never raises.
    """
    num_tokens = len(prompt_ids) + len(completion_ids)
    if too_long == "error" and num_tokens > max_length:
        raise ValueError(f"prompt and completion must fit max_length={max_length} tokens, got {num_tokens}")
    if too_long == "truncate_prompt" and len(completion_ids) > max_length:
        raise ValueError(f"the completion must fit max_length={max_length} tokens, got {len(completion_ids)}")
    cut = max(0, num_tokens - max_length)
    return Encoded(tuple([*prompt_ids, *completion_ids][cut:]), len(completion_ids), cut)


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Int[Tensor, "N T"], Int[Tensor, "N T"]]:
    """`(ids, attention_mask)`. The value of `pad_id` is never looked at, only the mask is."""
    longest = max(map(len, rows))
    ids = [[*row, *[pad_id] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return tensor(ids), tensor(mask)


def shuffled_batches(lengths: Sequence[int], size: int, generator: random.Random) -> list[list[int]]:
    """Indices in batches of `size` (the last may be smaller), of similar length inside and in random order."""
    order = list(range(len(lengths)))
    generator.shuffle(order)
    pool = 16 * size
    for start in range(0, len(order), pool):
        order[start : start + pool] = sorted(order[start : start + pool], key=lambda index: lengths[index])
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    generator.shuffle(batches)
    return batches


def _encode_text(tokenizer: Any, prompt: str) -> list[int]:
    """With the tokenizer's special tokens, unless the text brings its own BOS; an EOS it appends is taken off."""
    has_bos = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    ids = tokenizer(prompt, add_special_tokens=not has_bos)["input_ids"]
    if not has_bos and ids[-1:] == [tokenizer.eos_token_id] and not prompt.endswith(tokenizer.eos_token):
        return ids[:-1]
    return ids
