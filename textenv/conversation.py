"""The other side of an episode of several turns: a tool, a user, a game.

A task that has a method `converse(problem)` gives each episode a `Conversation` of its own. When the policy ends a turn
(with an end token, or with one of the task's `turn_ends`), the conversation replies; its words are appended as tokens
of segment 3 in the same step, never charged to the policy's budget and never trained on. What was written before is
never encoded again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from textenv.tokenizer import Tokenizer
from textenv.types import Problem


@dataclass(frozen=True, slots=True)
class Reply:
    """What the environment says to a turn of the policy."""

    text: str = ""
    role: str = "user"
    """Of the chat message that the reply becomes, behind a turn that an end token closed; behind one of `turn_ends` the
    text stands inside the policy's own message."""
    done: bool = False
    """The task itself ends the episode here; `text` is not shown."""
    reward: float = 0.0
    """Paid on the last token of the turn, besides the task's reward at the end of the episode."""


@runtime_checkable
class Conversation(Protocol):
    """One episode's other side; picklable, and deterministic given its problem and what it is told."""

    def reply(self, text: str) -> Reply:
        """The answer to the policy's turn."""
        ...


@runtime_checkable
class ConversationTask(Protocol):
    """What a task has besides `textenv.Task` when its environment answers."""

    turn_ends: tuple[str, ...]
    """Texts that end a turn inside a message: the closing tag of a tool call. May be empty."""
    max_injected_tokens: int
    """Room in the observation for the replies of one episode; an episode that needs more ends with CONTEXT."""

    def converse(self, problem: Problem) -> Conversation:
        """The other side of a new episode."""
        ...


@dataclass(frozen=True, slots=True)
class Converses:
    """How replies become tokens."""

    tokenizer: Tokenizer
    task: ConversationTask
    chat: bool

    def tokens(self, reply: Reply, *, in_message: bool) -> list[int]:
        """The tokens of a reply: plain ones inside a message, else those that the chat template puts between the end
        of the policy's message and the start of its next."""
        if in_message or not self.chat:
            return self.tokenizer.encode(reply.text)
        return turn_tokens(self.tokenizer, reply.role, reply.text)


@dataclass(slots=True)
class Dialog:
    """What has been said in one episode."""

    conversation: Conversation
    said: list[str] = field(default_factory=list)
    """The policy's turns."""
    messages: list[dict[str, str]] = field(default_factory=list)
    """Both sides, in order; what a tool wrote inside a message stands as a message of its own."""
    paid: float = 0.0
    """For its turns so far."""
    num_injected: int = 0
    failure: str = ""
    """Why the other side could not reply."""
    over: bool = False

    def turn(self, text: str) -> Reply:
        """The reply to a turn; an error of the other side ends the episode and is kept in `failure`."""
        self.last_words(text, over=False)
        try:
            reply = self.conversation.reply(text)
            if not isinstance(reply, Reply) or not math.isfinite(reply.reward):
                raise TypeError(f"a reply must be a Reply with a finite reward, got {reply!r}")
        except Exception as error:  # noqa: BLE001  (a user's code may raise anything; it ends its own row)
            self.failure = f"the conversation failed: {type(error).__name__}: {error}, on the turn {text[:80]!r}"
            reply = Reply(done=True)
        self.paid += reply.reward
        self.over = reply.done
        return reply

    def last_words(self, text: str, *, over: bool = True) -> None:
        """Note a turn that nobody replies to, or not yet."""
        self.said.append(text)
        self.messages.append({"role": "assistant", "content": text})
        self.over = over

    def hear(self, reply: Reply, num_tokens: int) -> None:
        """Note a reply that was injected."""
        self.messages.append({"role": reply.role, "content": reply.text})
        self.num_injected += num_tokens


def conversation_of(task: Any, tokenizer: Tokenizer, *, chat: bool) -> Converses | None:
    """How `task` converses; None for one that does not. Raises `ValueError` where its settings cannot be."""
    if not hasattr(task, "converse"):
        return None
    for name in ("turn_ends", "max_injected_tokens"):
        if not hasattr(task, name):
            raise ValueError(f"task {task.name!r} has converse() and must also have {name} (ConversationTask)")
    if task.max_injected_tokens < 1:
        raise ValueError(
            f"max_injected_tokens of task {task.name!r} must be at least 1, got {task.max_injected_tokens}"
        )
    ends = task.turn_ends
    if isinstance(ends, str) or not all(isinstance(end, str) and end for end in ends):
        raise ValueError(f"turn_ends of task {task.name!r} must be a tuple of non-empty texts, got {ends!r}")
    if chat:
        turn_tokens(tokenizer, "user", "x")
    return Converses(tokenizer, task, chat)


def turn_tokens(tokenizer: Tokenizer, role: str, text: str) -> list[int]:
    """What a chat template writes from behind the end token of one assistant message to the start of the next.

    Raises `ValueError` for a template in which messages do not follow each other.
    """
    question: dict[str, str] = {"role": "user", "content": "a"}
    opened = tokenizer.render_chat([question]) or []
    dialog = [question, {"role": "assistant", "content": "b"}, {"role": role, "content": text}]
    whole = tokenizer.render_chat(dialog) or []
    before = tokenizer.render_chat([question], add_generation_prompt=False) or []
    closing = [place for place in range(len(before), len(whole)) if whole[place] in tokenizer.end_ids]
    if whole[: len(before)] != before or not opened or not closing:
        raise ValueError(
            f"the chat template of {tokenizer.name!r} must append messages and close them with an end token"
        )
    return whole[closing[0] + 1 :]
