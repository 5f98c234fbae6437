"""Environments whose observation and action are text (GEM, TextArena, OpenEnv, ...) as tasks of a token environment.

Whoever has `reset` and `step` on text becomes the other side of a conversation: what `reset` shows is the prompt, a
turn of the policy is an action, what `step` shows is the reply. Three shapes of results are understood:

- `reset(seed=...) -> text | (text, info)` and `step(text) -> (text, reward, terminated, truncated, info)`: GEM and
  everything that looks like Gymnasium (or `(text, reward, done, info)`, its older form);
- `reset(num_players=1, seed=...)`, `get_observation() -> (player, text)`, `step(text) -> (done, info)` and rewards from
  `close()`: TextArena, games for one player;
- an object or a dict with `done` and `reward`, and the text in `text`, `prompt`, `observation` or `content`: OpenEnv.

Such environments often draw from the global random generators. Each conversation keeps a state of its own for them, and
the caller's is put back after every call: conversations do not disturb each other, and what happens in one depends on
its seed and on what it is told, nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rewards.targets import resolve
from rewards.types import Score
from textenv.conversation import Reply
from textenv.random_state import RandomState
from textenv.types import Problem

TEXT_FIELDS = ("text", "prompt", "observation", "content", "message")


class TurnTask:
    """A task whose problems are the seeds of a text environment: `train_size` for training, others for testing.

    `make` builds a fresh environment (a function, an import path, or `{"_target_": path, **keywords}`). The return of
    an episode is the sum of what `step` pays. `max_injected_tokens` bounds what an episode may be told.
    """

    turn_ends: tuple[str, ...] = ()
    columns = frozenset({"seed"})

    def __init__(
        self,
        make: Any,
        *,
        train_size: int = 1000,
        test_size: int = 100,
        max_injected_tokens: int = 1024,
        name: str = "turns",
    ) -> None:
        for setting, value in (("train_size", train_size), ("test_size", test_size)):
            if value < 1:
                raise ValueError(f"{setting} must be at least 1, got {value}")
        self.name, self.max_injected_tokens = name, max_injected_tokens
        self._make: Callable[[], Any] = make if callable(make) else functools.partial(made, make)
        self._seeds = {"train": range(test_size, test_size + train_size), "test": range(test_size)}

    def split(self, name: str) -> Openings:
        """The problems of `"train"` or `"test"`; the prompt is what the environment shows at its start."""
        if name not in self._seeds:
            raise ValueError(f"split must be one of {', '.join(self._seeds)}, got {name!r}")
        return Openings(self._make, self._seeds[name])

    def reward(self) -> Any:
        """Nothing at the end: the turns are paid by the environment."""
        return {"end": Nothing()}

    def converse(self, problem: Problem) -> TurnConversation:
        """A fresh environment, at the start that the problem showed."""
        conversation = TurnConversation(self._make, problem.row["seed"])
        conversation.open()
        return conversation


def made(spec: Any) -> Any:
    """A fresh environment from an import path or `{"_target_": path, **keywords}` of a class or a function."""
    found = resolve(spec, setting="make")
    return found if hasattr(found, "reset") or not callable(found) else found()


class Openings:
    """A sequence of problems over seeds."""

    def __init__(self, make: Callable[[], Any], seeds: range) -> None:
        self._make, self._seeds = make, seeds

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitem__(self, index: int) -> Problem:
        seed = self._seeds[index]
        return Problem(TurnConversation(self._make, seed).open(), {"seed": seed})


class TurnConversation:
    """One environment, its own random state, and how far it has come."""

    def __init__(self, make: Callable[[], Any], seed: int) -> None:
        self._shown, self._seed = "", seed
        self._random = RandomState.seeded(seed)
        with self._random.in_place():
            self.env = make()
        for name in ("reset", "step"):
            if not callable(getattr(self.env, name, None)):
                raise ValueError(f"make must give an environment with reset() and step(), {self.env!r} has no {name}")

    def open(self) -> str:
        """Begin; returns what the environment shows."""
        with self._random.in_place():
            if hasattr(self.env, "get_observation"):
                self.env.reset(num_players=1, seed=self._seed)
                return self._seen_in_arena()
            shown = self.env.reset(seed=self._seed)
        return text_of(shown[0] if isinstance(shown, tuple) else shown)

    def reply(self, text: str) -> Reply:
        """One step of the environment."""
        with self._random.in_place():
            result = self.env.step(text)
            if isinstance(result, tuple) and len(result) == 2:
                return self._arena_reply(bool(result[0]))
        shown, reward, done = outcome(result)
        return Reply("" if done else text_of(shown), done=done, reward=0.0 if reward is None else float(reward))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "env": taken_apart(self.env)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "env": put_together(state["env"])})

    def _seen_in_arena(self) -> str:
        """What is new in an observation: messages of others, or the part of a history that was not shown before."""
        player, shown = self.env.get_observation()
        if not isinstance(shown, str):
            return "\n".join(text for sender, text, *_ in shown if sender != player)
        new, self._shown = shown.removeprefix(self._shown), shown
        return new

    def _arena_reply(self, done: bool) -> Reply:
        if not done:
            return Reply(self._seen_in_arena())
        closed = self.env.close()
        rewards = closed[0] if isinstance(closed, tuple) else closed
        return Reply(done=True, reward=float(rewards[0]))


def outcome(result: Any) -> tuple[Any, Any, bool]:
    """Observation, reward, and whether it is over. Raises `TypeError` for a result of no known shape."""
    if isinstance(result, tuple):
        if len(result) == 5:
            return result[0], result[1], bool(result[2] or result[3])
        if len(result) == 4:
            return result[0], result[1], bool(result[2])
        raise TypeError(f"step() must return 2, 4 or 5 values or an object with done and reward, got {len(result)}")
    if isinstance(result, dict):
        return result, result.get("reward"), bool(result["done"])
    return result, result.reward, bool(result.done)


@dataclass(frozen=True)
class Wrapped:
    """A wrapper around an environment, taken apart to be copied: many forward every missing attribute to what they
    wrap, which a copy that is being made does not have yet."""

    kind: type
    members: dict[str, Any]


def taken_apart(env: Any) -> Any:
    """The environment, its wrappers as `Wrapped`."""
    members = getattr(env, "__dict__", {})
    return Wrapped(type(env), {**members, "env": taken_apart(members["env"])}) if "env" in members else env


def put_together(parts: Any) -> Any:
    """What `taken_apart` took apart."""
    if not isinstance(parts, Wrapped):
        return parts
    env: Any = object.__new__(parts.kind)
    env.__dict__.update({**parts.members, "env": put_together(parts.members["env"])})
    return env


@dataclass(frozen=True)
class Nothing:
    """Pays nothing."""

    execution = "inline"

    def __call__(self, completion: str) -> Score:
        return Score(0.0)


def text_of(observation: Any) -> str:
    """The text of an observation. Raises `TypeError` for one that has none."""
    if isinstance(observation, str):
        return observation
    for name in TEXT_FIELDS:
        value = observation.get(name) if isinstance(observation, dict) else getattr(observation, name, None)
        if value is not None:
            return text_of(value)
    raise TypeError(f"an observation must be text, or have one of {', '.join(TEXT_FIELDS)}, got {observation!r}")
