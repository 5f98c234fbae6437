"""A chat endpoint in OpenAI's shape: vLLM, llama.cpp, Ollama, a gateway, or a provider.

`POST {base_url}/chat/completions` with `model`, `messages`, `temperature` and `max_tokens`; the answer is
`choices[0].message.content`, its cost `usage`. Retried: 408, 409, 425, 429, 5xx, broken connections and time-outs,
after `backoff_seconds` times 1, 2, 4, ..., a half of it drawn at random, or what `Retry-After` says where that is more.
"""

from __future__ import annotations

import asyncio
import email.utils
import http.client
import itertools
import json
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from rewards.errors import Failure
from rewards.judge.post import Post, Response
from rewards.judge.reply import Reply
from rewards.types import Message

RETRIED = (408, 409, 425, 429)
MAX_BACKOFF_SECONDS = 60.0


class _Refusal(Exception):
    """One request that gave no answer."""

    def __init__(
        self, reason: str, *, retry: bool = False, after_seconds: float = 0.0, timed_out: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.retry, self.after_seconds, self.timed_out = reason, retry, after_seconds, timed_out


@dataclass(frozen=True)
class ChatEndpoint:
    """Asks a model behind HTTP. Raises `ValueError` for a setting out of range or a key that is not set.

    The key is read from the environment for each request; it is neither stored, nor logged, nor repeated in a reason.
    """

    model: str
    base_url: str = "http://localhost:8000/v1"
    api_key_env: str | None = None
    """The name of the environment variable that holds the key; None: the endpoint needs none."""
    temperature: float = 0.0
    max_tokens: int = 512
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the request; null takes one away (`{max_tokens: null, max_completion_tokens: 512}`)."""
    concurrency: int = 16
    """Requests at a time, of all threads together."""
    timeout_seconds: float = 60.0
    """Wall time of one request."""
    give_up_seconds: float = 180.0
    """Wall time of one question, from its first request on, retries and waits included."""
    retries: int = 4
    backoff_seconds: float = 1.0
    price_in: float | None = None
    """Price of a million tokens read; None: cost is not counted."""
    price_out: float | None = None
    """Price of a million tokens written."""
    _threads: dict[int, ThreadPoolExecutor] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not self.model:
            raise ValueError("model must be the name of a model, got ''")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise ValueError(f"api_key_env must name an environment variable with a key, {self.api_key_env} is not set")
        for name in ("max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("timeout_seconds", "give_up_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)!r}")
        for name in ("temperature", "retries", "backoff_seconds", "price_in", "price_out"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)!r}")

    async def ask(self, conversations: Sequence[Sequence[Message]]) -> list[Reply]:
        """One reply a conversation, in order; none raises."""
        slots = asyncio.Semaphore(self.concurrency)

        async def one(messages: Sequence[Message]) -> Reply:
            async with slots:  # the clock of a question starts when its turn has come
                return await self._reply(messages)

        return list(await asyncio.gather(*(one(messages) for messages in conversations)))

    async def _reply(self, messages: Sequence[Message]) -> Reply:
        end = time.monotonic() + self.give_up_seconds
        body = self._body(messages)
        for attempt in itertools.count():
            try:
                reply = self._read(await self._request(body, end - time.monotonic()))
                return replace(reply, requests=attempt + 1)
            except _Refusal as refusal:
                pause = max(self._backoff(attempt), refusal.after_seconds)
                late = time.monotonic() + pause >= end
                if late or not refusal.retry or attempt >= self.retries:
                    tries = "" if attempt == 0 else f" ({attempt + 1} requests)"
                    return Reply(
                        failure=Failure(refusal.reason + tries, timed_out=refusal.timed_out), requests=attempt + 1
                    )
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _backoff(self, attempt: int) -> float:
        return min(self.backoff_seconds * 2.0**attempt, MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1.0)

    def _body(self, messages: Sequence[Message]) -> bytes:
        fields: dict[str, Any] = {"model": self.model, "messages": [dict(message) for message in messages]}
        fields |= {"temperature": self.temperature, "max_tokens": self.max_tokens, **self.extra_body}
        return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()

    async def _request(self, body: bytes, seconds_left: float) -> Response:
        limit = max(0.0, min(self.timeout_seconds, seconds_left))
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key_env is not None:
            if not os.environ.get(self.api_key_env):
                raise _Refusal(f"api_key_env {self.api_key_env} is not set in the process that asks")
            headers["Authorization"] = f"Bearer {os.environ[self.api_key_env]}"
        post = Post(f"{self.base_url.rstrip('/')}/chat/completions", headers, body, timeout_seconds=limit or 1e-3)
        try:
            sent = asyncio.get_running_loop().run_in_executor(self._executor(), post.send)
            return await asyncio.wait_for(sent, limit)
        except TimeoutError:
            raise _Refusal(f"no answer within {limit:.3g} s", retry=True, timed_out=True) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Refusal(f"{type(error).__name__}: {error}"[:200], retry=True) from None
        finally:
            post.abort()  # also where this was cancelled: the thread is free again

    def _read(self, response: Response) -> Reply:
        text = response.body.decode(errors="replace")
        if response.status != 200:
            retry = response.status in RETRIED or response.status >= 500
            reason = f"HTTP {response.status}: {self._without_key(text)[:200]!r}"
            raise _Refusal(reason, retry=retry, after_seconds=_seconds(response.headers.get("retry-after")))
        try:
            answer = json.loads(text)
            content = answer["choices"][0]["message"]["content"]
            if not isinstance(content, str):
                raise TypeError(f"content is {content!r:.40}")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            told = f"{type(error).__name__}: {error}"[:80]
            raise _Refusal(f"a malformed answer ({told}), it starts {self._without_key(text)[:80]!r}") from None
        return self._counted(content, answer.get("usage"))

    def _counted(self, content: str, usage: Any) -> Reply:
        usage = usage if isinstance(usage, Mapping) else {}
        tokens_in, tokens_out = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        cost = (tokens_in * (self.price_in or 0.0) + tokens_out * (self.price_out or 0.0)) / 1e6
        return Reply(content, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.api_key_env, "") if self.api_key_env else ""
        return text.replace(key, "***") if key else text

    def _executor(self) -> ThreadPoolExecutor:
        """As many threads as requests may be under way; a fork has none of its parent's."""
        process_id = os.getpid()
        if process_id not in self._threads:
            self._threads[process_id] = ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")
        return self._threads[process_id]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_threads": {}}


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        raise ValueError(f"base_url must be http(s)://host:port/path, got one where {error}") from error
    if not usable or parts.username is not None:  # whoever wrote a key into it does not want to see it again
        raise ValueError(f"base_url must be http(s)://host:port/path, without user or key, got host {parts.hostname!r}")


def _count(number: Any) -> int:
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0


def _seconds(retry_after: str | None) -> float:
    """What the header asks for, in seconds or as a date; 0 where it makes no sense."""
    if not retry_after:
        return 0.0
    try:
        seconds = float(retry_after)
        return seconds if 0 <= seconds < math.inf else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
