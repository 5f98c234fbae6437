"""The settings of an environment, and the parts that they describe. Everything here may be given as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space

from rewards.combine import as_parts
from rewards.scoring import Scorer
from textenv.conversation import conversation_of
from textenv.episodes import EpisodeSource
from textenv.kernel import Kernel
from textenv.prompts import LONG_PROMPT_POLICIES, PromptFormat, longest_prompt
from textenv.stopping import StopSpec
from textenv.tasks import load_task, problems_of
from textenv.tokenizer import Tokenizer, load_tokenizer
from textenv.types import Task

OWN = "own"
"""The entry `own: own` of a reward stands for the task's own parts."""
SCORING = ("on_error", "timeout_seconds", "max_invalid_share", "worker_memory_mb", "keep_environment", "cache_size")
"""Settings that a `Scorer` knows by the same name."""
LOOK_AT = 64
"""Computed problems whose length is measured beforehand; some generators take a second for each."""


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """Keyword arguments of `TextEnv` and `TextVectorEnv`; `ValueError` for one that is out of range."""

    task: Any = "arithmetic"
    """A name, an import path, `{"_target_": path, ...}` or a `Task`."""
    reward: Any = None
    """What `rewards.combine.as_parts` takes; None: the task's own, which an entry `own: own` joins with others."""
    tokenizer: Any = None
    """What `load_tokenizer` takes; None: the task's own tiny one, else bytes."""
    split: str = "train"
    """Where problems are drawn from."""
    max_prompt_tokens: int | None = None
    """None: the longest prompt of train and test; where a split computes more than 64 problems, the longest of 64
    evenly spaced ones and a half more. Given, only a few problems are looked at beforehand."""
    max_new_tokens: int = 32
    """The budget: policy tokens an episode."""
    stop_strings: Sequence[str] = ()
    """Texts that end an episode when the policy has written one."""
    include_stop: bool = False
    """Whether the completion keeps the stop string."""
    budget: str = "terminate"
    """Whether a spent budget is `terminated` (it is observed as `remaining`) or `truncated`: `"truncate"`."""
    on_long_prompt: str = "error"
    """`"error"`, or cut the `"left"` or `"right"` end off."""
    obs_mode: str = "dict"
    """`"packed"`: one int32 vector: length, prompt_length, remaining, tokens, segment."""
    chat: bool | None = None
    """Show problems as a chat; None: where the tokenizer has a chat template."""
    system_prompt: str | None = None
    """First message of every chat that brings none of its own."""
    prompt_template: str | None = None
    """Text with one `{prompt}` in it."""
    on_error: Any = "invalid"
    """What a failing grader means: `"raise"`, `"invalid"`, or the value to pay."""
    timeout_seconds: float = 10.0
    """Time limit of a reward's call."""
    max_invalid_share: float = 0.2
    """The run ends when more samples than this could not be scored."""
    scoring: str = "immediate"
    """When the score is paid. `"immediate"`: by the step that ends the episode. `"deferred"`: that step pays 0 and its
    infos say `reward_pending`; rewards are computed on a thread while other rows go on, and `scores()` delivers them.
    What runs inline then runs beside the policy, in another thread: it must bear that, and plain Python slows both."""
    reward_workers: int | None = None
    """Processes for rewards that may hang or are slow; None: a quarter of the cores."""
    worker_memory_mb: int | None = None
    """Address space of each; None: unlimited."""
    keep_environment: Sequence[str] = ()
    """Names of environment variables that they are shown although they look like secrets."""
    cache_size: int = 0
    """Scores kept, by all that a reward was shown and its `version`, of rewards that are called per sample."""

    def __post_init__(self) -> None:
        _check_choice("budget", self.budget, ("terminate", "truncate"))
        _check_choice("on_long_prompt", self.on_long_prompt, LONG_PROMPT_POLICIES)
        _check_choice("obs_mode", self.obs_mode, ("dict", "packed"))
        _check_choice("scoring", self.scoring, ("immediate", "deferred"))
        check_positive("max_new_tokens", self.max_new_tokens)
        if self.max_prompt_tokens is not None:
            check_positive("max_prompt_tokens", self.max_prompt_tokens)
        for name in ("system_prompt", "prompt_template"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be text, got {getattr(self, name)!r}")
        stops = self.stop_strings
        if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(f"stop_strings must be a list of non-empty texts, got {stops!r}")


def env_settings(settings: Mapping[str, Any]) -> EnvSettings:
    """The settings from keyword arguments; `TypeError` for one that there is not."""
    known = [field.name for field in fields(EnvSettings)]
    for name in settings:
        if name not in known:
            raise TypeError(f"a setting must be one of {', '.join(known)}, got {name!r}")
    return EnvSettings(**settings)


class EnvParts(NamedTuple):
    """What an environment is composed of."""

    task: Task
    tokenizer: Tokenizer
    stop_spec: StopSpec
    episodes: EpisodeSource
    kernel: Kernel
    observation_space: Space
    action_space: Discrete


def build(settings: EnvSettings, num_rows: int) -> EnvParts:
    """The parts for `num_rows` rows; every mistake that can be seen before the first step raises here."""
    task = load_task(settings.task)
    tokenizer = _tokenizer(settings.tokenizer, task)
    if strange := [token for token in tokenizer.end_ids if not 0 <= token < len(tokenizer)]:
        raise ValueError(
            f"end_ids of tokenizer {tokenizer.name!r} must be from 0 to {len(tokenizer) - 1}, got {strange}"
        )
    scorer = scorer_of(_reward(settings.reward, task), settings)
    scorer.require(task.columns)
    prompts = PromptFormat(
        tokenizer,
        chat=settings.chat,
        system_prompt=settings.system_prompt,
        prompt_template=settings.prompt_template,
        on_long_prompt=settings.on_long_prompt,
        max_prompt_tokens=settings.max_prompt_tokens,
    )
    measured = _max_prompt_tokens(prompts, task, settings.split)
    max_prompt_tokens = settings.max_prompt_tokens or measured
    prompts = replace(prompts, max_prompt_tokens=max_prompt_tokens)
    converses = conversation_of(task, tokenizer, chat=bool(prompts.chat))
    turn_ends = () if converses is None else tuple(converses.task.turn_ends)
    stop_spec = StopSpec(tokenizer.end_ids, (*settings.stop_strings, *turn_ends), settings.max_new_tokens)
    episodes = EpisodeSource(
        task, prompts, split=settings.split, max_new_tokens=settings.max_new_tokens, num_rows=num_rows
    )
    episodes.problems(settings.split)
    kernel = Kernel(
        num_rows,
        tokenizer=tokenizer,
        stop_spec=replace(stop_spec, stop_strings=tuple(settings.stop_strings)),
        scorer=scorer,
        max_prompt_tokens=max_prompt_tokens,
        include_stop=settings.include_stop,
        budget_terminates=settings.budget == "terminate",
        converses=converses,
        deferred=settings.scoring == "deferred",
    )
    space = observation_space(
        len(tokenizer), kernel.width, settings.max_new_tokens, packed=settings.obs_mode == "packed"
    )
    return EnvParts(task, tokenizer, stop_spec, episodes, kernel, space, Discrete(len(tokenizer)))


def scorer_of(reward: Any, settings: Any) -> Scorer:
    """What scores `reward` as an environment with these settings does; `settings`: `EnvSettings`, or whatever has its
    fields."""
    same = {name: getattr(settings, name) for name in SCORING}
    return Scorer(reward, workers=settings.reward_workers, **same)


def observation_space(vocabulary: int, width: int, max_new_tokens: int, *, packed: bool) -> Space:
    """One row's observation."""
    if packed:
        return Box(0, max(vocabulary - 1, width), (3 + 2 * width,), np.int32)
    return Dict(
        {
            "tokens": Box(0, vocabulary - 1, (width,), np.int32),
            "segment": Box(0, 3, (width,), np.uint8),
            "length": Box(0, width, (1,), np.int32),
            "prompt_length": Box(0, width, (1,), np.int32),
            "remaining": Box(0, max_new_tokens, (1,), np.int32),
        }
    )


def pack(observation: dict[str, np.ndarray]) -> np.ndarray:
    """The packed form of a batch of observations."""
    names = ("length", "prompt_length", "remaining", "tokens", "segment")
    return np.concatenate([observation[name].astype(np.int32) for name in names], axis=1)


def check_positive(name: str, value: Any) -> None:
    """`ValueError` unless the value is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _tokenizer(spec: Any, task: Task) -> Tokenizer:
    if spec is not None:
        return load_tokenizer(spec)
    own = getattr(task, "tokenizer", None)
    return load_tokenizer("byte" if own is None else own())


def _reward(reward: Any, task: Task) -> Any:
    """The reward's parts, with those of the task where it asks for them."""
    joins = isinstance(reward, Mapping) and reward.get(OWN) == OWN
    if reward is not None and not joins:
        return reward
    own = task.reward()
    if own is None:
        raise ValueError(f"reward must be given: task {task.name!r} has none of its own")
    if not joins:
        return own
    others = {name: part for name, part in reward.items() if name != OWN}
    own = as_parts(own)
    if both := sorted(own.keys() & others.keys()):
        raise ValueError(f"reward.{both[0]} is a part of the own reward of task {task.name!r} already: leave out one")
    return {**own, **others}


def _max_prompt_tokens(prompts: PromptFormat, task: Task, split: str) -> int:
    """The default; looking at the problems also finds, before any weight is loaded, a prompt that cannot be shown."""
    longest = 0
    look_at = LOOK_AT if prompts.max_prompt_tokens is None else LOOK_AT // 8
    for name in dict.fromkeys((split, "train", "test")):
        size, all_seen = longest_prompt(prompts, problems_of(task, name), look_at=look_at)
        longest = max(longest, size if all_seen else size + size // 2)
    return max(longest, 1)
