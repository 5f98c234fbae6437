"""From a problem to the tokens it starts an episode with: template, chat, and what happens when it is too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.types import Message
from textenv.tokenizer import Tokenizer
from textenv.types import Problem, as_problem

PLACE = "{prompt}"
LONG_PROMPT_POLICIES = ("error", "left", "right")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem, ready to start: what the policy reads, and what the reward will be told."""

    ids: np.ndarray
    """int32, within `max_prompt_tokens`."""
    text: str
    messages: tuple[Message, ...]
    problem: Problem

    @property
    def row(self) -> Mapping[str, Any]:
        """The problem's columns."""
        return self.problem.row


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How problems become prompts."""

    tokenizer: Tokenizer
    chat: bool | None
    """None: a chat where the tokenizer has a template."""
    system_prompt: str | None
    prompt_template: str | None
    on_long_prompt: str
    max_prompt_tokens: int | None
    """None: no limit (while the longest prompt is being looked for)."""

    def __post_init__(self) -> None:
        has_template = self.tokenizer.render_chat([{"role": "user", "content": "a"}]) is not None
        if self.chat and not has_template:
            raise ValueError(f"chat=True needs a tokenizer with a chat template, got {self.tokenizer.name!r}")
        if self.chat is None:
            object.__setattr__(self, "chat", has_template)
        if self.system_prompt is not None and not self.chat:
            raise ValueError(f"system_prompt needs chat, which is off here, got {self.system_prompt!r}")
        if self.prompt_template is not None and self.prompt_template.count(PLACE) != 1:
            raise ValueError(f"prompt_template must contain {PLACE} once, got {self.prompt_template!r}")

    def prepare(self, problem: Problem) -> Prompt:
        """The problem's prompt; `ValueError` when it is empty, or too long under `on_long_prompt="error"`.

        A task may give its problems as whatever `as_problem` takes.
        """
        problem = as_problem(problem)
        messages = self._messages(problem.prompt)
        if self.chat:
            ids = self.tokenizer.render_chat(messages) or []
        else:
            ids = [*self.tokenizer.start_ids, *self.tokenizer.encode(self._filled(str(problem.prompt)))]
        ids = self._within_limit(ids, problem)
        text = self.tokenizer.decode(ids, skip_special=not self.chat)
        return Prompt(np.array(ids, dtype=np.int32), text, messages, problem)

    def _messages(self, prompt: str | Sequence[Message]) -> tuple[Message, ...]:
        """What a chat shows, system prompt and template applied; empty without chat."""
        if isinstance(prompt, str):
            return self._with_system([{"role": "user", "content": self._filled(prompt)}]) if self.chat else ()
        if not self.chat:
            raise ValueError(f"a prompt of chat messages needs chat and a tokenizer with a template, got {prompt}")
        messages = [dict(message) for message in prompt]
        for message in reversed(messages):
            if message["role"] == "user":
                message["content"] = self._filled(message["content"])
                break
        return self._with_system(messages)

    def _with_system(self, messages: list[dict[str, str]]) -> tuple[Message, ...]:
        if self.system_prompt is None or (messages and messages[0]["role"] == "system"):
            return tuple(messages)
        return ({"role": "system", "content": self.system_prompt}, *messages)

    def _filled(self, prompt: str) -> str:
        return prompt if self.prompt_template is None else self.prompt_template.replace(PLACE, prompt)

    def _within_limit(self, ids: list[int], problem: Problem) -> list[int]:
        if not ids:
            raise ValueError(
                f"a prompt must have at least one token and {self.tokenizer.name!r} has no BOS, got {problem}"
            )
        limit = self.max_prompt_tokens
        if limit is None or len(ids) <= limit:
            return ids
        if self.on_long_prompt == "error":
            raise ValueError(
                f"a prompt must have at most max_prompt_tokens={limit} tokens (or set on_long_prompt to 'left' or "
                f"'right' to cut that end off), got {len(ids)} tokens: {str(problem.prompt)[:200]!r}"
            )
        return ids[-limit:] if self.on_long_prompt == "left" else ids[:limit]


def longest_prompt(prompts: PromptFormat, problems: Sequence[Problem], *, look_at: int) -> tuple[int, bool]:
    """The most tokens among the problems, and whether all were measured.

    A list or tuple (a user's own problems) is measured whole, a computed sequence at `look_at` evenly spaced places.
    """
    size = len(problems)
    look_at = size if isinstance(problems, list | tuple) else look_at
    indices = range(size) if size <= look_at else [round(i * (size - 1) / (look_at - 1)) for i in range(look_at)]
    return max((len(prompts.prepare(problems[i]).ids) for i in indices), default=0), size <= look_at
