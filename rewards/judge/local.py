"""A local Hugging Face model as a judge's backend: greedy, in batches of similar length, in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from rewards.errors import Failure
from rewards.judge.reply import Reply
from rewards.types import Message


class LocalModel:
    """Answers with a causal language model from a folder or a hub name.

    Torch is imported, and the weights are loaded, at the first question (again after unpickling). Greedy, so the same
    question has the same answer, up to the last bits of a batch's logits. A model without a chat template reads the
    messages one after the other. Raises `ValueError` for settings out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        batch_size: int = 8,
        max_tokens: int = 256,
        max_prompt_tokens: int | None = None,
    ) -> None:
        """`max_prompt_tokens`: a longer question is a failure; None: what the model's positions leave."""
        if not model:
            raise ValueError("model must be a folder or a hub name, got ''")
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be at least 1, got {max_prompt_tokens!r}")
        self.model, self.device, self.batch_size = model, device, batch_size
        self.max_tokens, self.max_prompt_tokens = max_tokens, max_prompt_tokens
        # network and tokenizer; untyped, so that this module needs no torch
        self._loaded: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    async def ask(self, conversations: Sequence[Sequence[Message]]) -> list[Reply]:
        """One reply a conversation, in order. Raises what loading the model raises."""
        return await asyncio.to_thread(self._ask, conversations)

    def _ask(self, conversations: Sequence[Sequence[Message]]) -> list[Reply]:
        if not conversations:
            return []
        with self._lock:  # one model, one batch at a time
            network, tokenizer = self._load()
            prompts = [_prompt_ids(tokenizer, messages) for messages in conversations]
            limit = self._limit(network)
            replies = [Reply(failure=_too_long(len(ids), limit), requests=0) for ids in prompts]
            fitting = [index for index, ids in enumerate(prompts) if len(ids) <= limit]
            fitting.sort(key=lambda index: len(prompts[index]))
            for start in range(0, len(fitting), self.batch_size):
                rows = fitting[start : start + self.batch_size]
                written = self._generate(network, tokenizer, [prompts[index] for index in rows])
                for index, ids in zip(rows, written, strict=True):
                    text = tokenizer.decode(ids, skip_special_tokens=True)
                    replies[index] = Reply(text, tokens_in=len(prompts[index]), tokens_out=len(ids))
        return replies

    def _generate(self, network: Any, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What the model writes after each prompt, its end token included."""
        import torch

        width, ends = max(map(len, prompts)), _end_ids(network, tokenizer)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            rows = network.generate(
                input_ids=ids.to(network.device),
                attention_mask=mask.to(network.device),
                max_new_tokens=self.max_tokens,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=padding,
            )
        return [_until_end(row, ends) for row in rows[:, width:].tolist()]

    def _limit(self, network: Any) -> int:
        positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
        room = positions - self.max_tokens if positions else 1 << 31
        return room if self.max_prompt_tokens is None else min(room, self.max_prompt_tokens)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            if tokenizer.eos_token_id is None:
                raise ValueError(f"model must have a tokenizer with an end token, got {self.model}")
            dtype = torch.float32 if device == "cpu" else "auto"
            network: Any = AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype)
            self._loaded = network.to(device).eval(), tokenizer
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {"_loaded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _end_ids(network: Any, tokenizer: Any) -> list[int]:
    """A chat model may end its turn with another token than its tokenizer's end."""
    found = network.generation_config.eos_token_id
    more = found if isinstance(found, list) else [] if found is None else [found]
    return sorted({tokenizer.eos_token_id, *more})


def _until_end(row: list[int], ends: Sequence[int]) -> list[int]:
    """Up to the first end token, which is kept; behind it there is only padding."""
    return row[: next((place + 1 for place, token in enumerate(row) if token in ends), len(row))]


def _prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]  # the template wrote them
    return tokenizer("\n\n".join(message["content"] for message in messages) + "\n\n")["input_ids"]


def _too_long(num_tokens: int, limit: int) -> Failure:
    return Failure(f"the question must have at most {limit} tokens, it has {num_tokens}")
