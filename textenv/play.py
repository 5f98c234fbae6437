"""`python -m textenv.play task=arithmetic`: read a prompt, type a completion, see the score in parts.

Settings are those of the environment: `task=guess`, `task=jsonl task.path=mine.jsonl`, `split=test`, `index=3`,
`tokenizer=path-or-hub-name`, `reward=...`, `max_new_tokens=...`. An empty line ends a completion; in a conversation it
ends the turn. Ctrl-D leaves.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rewards.errors import RewardError
from textenv.ended import Ended
from textenv.kernel import INJECTED
from textenv.scalar_env import TextEnv
from textenv.settings_text import parse_settings

Read = Callable[[], str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Play episodes until the input ends."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    try:
        settings = parse_settings(words)
        index = settings.pop("index", None)
        env = TextEnv(**environment_settings(settings))
        if not env.tokenizer.end_ids:
            raise ValueError(f"tokenizer must have an end token to play, got {env.tokenizer.name!r}")
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    print("An empty line ends your answer, Ctrl-D the game.")
    try:
        while True:
            play(env, read_completion, {} if index is None else {"index": index})
            index = None if index is None else (index + 1) % env.num_problems
    except (EOFError, KeyboardInterrupt):
        print("\nGoodbye.")
    except (ValueError, RewardError) as error:
        sys.exit(f"error: {error}")
    finally:
        env.close()


def environment_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """`task=name task.key=value` as one specification; byte tokens and room to type by default."""
    if settings.get("obs_mode", "dict") != "dict":
        raise ValueError(f"obs_mode must be dict to play, got {settings['obs_mode']!r}")
    task = settings.pop("task", "arithmetic")
    if isinstance(task, dict) and "_target_" not in task:
        raise ValueError(f"task must be chosen before its settings: task=name task.{next(iter(task))}=...")
    return {"task": task, "tokenizer": "byte", "max_new_tokens": 4096, **settings}


def play(env: TextEnv, read: Read, options: dict[str, Any]) -> Ended:
    """One episode with a person as the policy; returns how it ended."""
    observation, info = env.reset(options=options)
    print(f"\n{env.prompt}\n")
    over, shown = False, int(observation["length"][0])
    while not over:
        words, taken = typed(env, read), 0
        for token in [*words, min(env.tokenizer.end_ids)]:
            taken += 1
            observation, _, terminated, truncated, info = env.step(token)
            over = terminated or truncated
            if over or info["num_injected"]:
                break
        else:
            continue
        if taken < len(words):
            print(f"(not read: {env.tokenizer.decode(words[taken:])!r})")
        injected = np.flatnonzero(observation["segment"][shown:] == INJECTED) + shown
        shown = int(observation["length"][0])
        if len(injected) and not over:
            print(f"\n{env.tokenizer.decode(observation['tokens'][injected].tolist())}\n")
    ended = env.scored()
    print(report(ended))
    return ended


def typed(env: TextEnv, read: Read) -> list[int]:
    """What the person writes, as tokens; text that the tokenizer has no tokens for is asked for again."""
    while True:
        try:
            return env.tokenizer.encode(read())
        except ValueError as error:
            print(f"{error}; again, please")


def report(ended: Ended) -> str:
    """The score, in parts and with reasons."""
    verdict = ended.verdict
    lines = [f"\nended: {ended.sample.finish_reason}", f"reward: {verdict.value + sum(s[2] for s in verdict.spans):g}"]
    for name, score in verdict.parts.items():
        reason = score.info.get("reason")
        lines.append(f"  {name}: {float(score):g}{f' ({reason})' if reason else ''}")
    lines += [f"  ({name}: {textwrap.shorten(str(value), 80)})" for name, value in ended.sample.row.items()]
    if not verdict.valid:
        lines.append(f"  could not be scored: {verdict.reason}")
    return "\n".join(lines)


def read_completion() -> str:
    """Lines up to an empty one. Raises `EOFError` when the input has ended."""
    lines: list[str] = []
    while True:
        line = input("> ")
        if not line:
            return "\n".join(lines)
        lines.append(line)


if __name__ == "__main__":
    main()
