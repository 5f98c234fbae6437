"""Rank completions in the terminal: `python -m rewards.preference.label data=completions.jsonl output=rankings.jsonl`.

Every ranking is written at once, so quitting, Ctrl-C or a crash loses nothing; the next call goes on where this one
ended. Completions are shown in an order drawn from the seed and the row, so that their place in the file teaches
nothing.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig
from rich.console import Console

from rewards.preference.commands import typed_config
from rewards.preference.config import CONFIG_FOLDER, LabelConfig
from rewards.preference.data import Prompt, parse_preference, parse_prompt, prompt_key, read_jsonl, text_field

Ranking = tuple[tuple[int, ...], ...]
"""Places from best to worst, each with the numbers (from 0) that share it."""


@dataclass(frozen=True, slots=True)
class Completions:
    """A prompt and at least two different answers to it."""

    prompt: Prompt
    completions: tuple[str, ...]


def label(
    config: LabelConfig, *, ask: Callable[[str], str] = input, console: Console | None = None
) -> Mapping[str, int]:
    """Ask about every row that has no ranking yet; how many were ranked, skipped, and labelled earlier.

    Raises `ValueError` for a line of `data` or `output` that is wrong, before the first question.
    """
    console = console or Console()
    if Path(config.output).resolve() == Path(config.data).resolve():
        raise ValueError(f"output must be another file than data, both are {config.output}")
    rows = [row for _, row in read_jsonl(config.data, parse_completions)]
    done = labelled(config.output)
    waiting = [row for row in rows if not _is_labelled(row, done)]
    counts = {"ranked": 0, "skipped": 0, "labelled earlier": len(rows) - len(waiting)}
    for number, row in enumerate(waiting, start=1):
        shown = shuffled(row, seed=config.seed)
        show(shown, console, title=f"{number} of {len(waiting)}")
        ranking = ask_ranking(len(shown.completions), ask, console)
        if ranking is None:
            break
        if ranking:
            append_line(config.output, ranking_line(shown, ranking))
        counts["ranked" if ranking else "skipped"] += 1
    return counts


def parse_completions(row: Mapping[str, Any]) -> Completions:
    """A row of the file to label; equal completions count once."""
    prompt = parse_prompt(row)
    texts = row.get("completions")
    if not isinstance(texts, list):
        raise ValueError(f"completions must be a list of texts, got {texts!r:.80}")
    for index, text in enumerate(texts):
        text_field({"completion": text}, "completion", where=f"completions[{index}]: ")
    distinct = tuple(dict.fromkeys(texts))
    if len(distinct) < 2:
        raise ValueError(f"completions must hold at least 2 different texts, got {len(distinct)}")
    return Completions(prompt, distinct)


def parse_ranking(text: str, num_completions: int) -> Ranking:
    """What a person typed, as places. Raises `ValueError` unless every number from 1 on is named exactly once.

    >>> parse_ranking("2=1 3", 3)
    ((1, 0), (2,))
    """
    words = re.sub(r"\s*=\s*", "=", text.replace(",", " ").replace(">", " ")).split()
    if not all(re.fullmatch(r"[0-9]{1,4}(=[0-9]{1,4})*", word) for word in words):
        raise ValueError("a ranking is numbers, best first, such as: 2 1 3, or with a tie: 2=1 3")
    ranking = tuple(tuple(int(number) - 1 for number in word.split("=")) for word in words)
    named = sorted(number for place in ranking for number in place)
    if named != list(range(num_completions)):
        raise ValueError(f"a ranking must name each of 1 to {num_completions} once")
    return ranking


def ranking_line(row: Completions, ranking: Ranking) -> str:
    """A ranking as `data.parse_preference` reads it.

    >>> ranking_line(Completions("p", ("a", "b", "c")), ((1,), (0, 2)))
    '{"prompt": "p", "responses": ["a", "b", "c"], "ranking": [1, [0, 2]]}'
    """
    places = [list(place) if len(place) > 1 else place[0] for place in ranking]
    return json.dumps({"prompt": row.prompt, "responses": row.completions, "ranking": places}, ensure_ascii=False)


def shuffled(row: Completions, *, seed: int) -> Completions:
    """The same row in an order that depends on the seed and the row alone."""
    generator = random.Random(f"{seed} {prompt_key(row.prompt)} {sorted(row.completions)}")
    return Completions(row.prompt, tuple(generator.sample(sorted(row.completions), len(row.completions))))


def ask_ranking(num_completions: int, ask: Callable[[str], str], console: Console) -> Ranking | None:
    """Ask until the answer can be used: a ranking, an empty one for `s`, None for `q`, Ctrl-C or the end of input."""
    while True:
        try:
            text = ask("best to worst (2 1 3, ties 2=1, s skip, q quit): ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            return None
        if text in ("s", "q"):
            return () if text == "s" else None
        try:
            return parse_ranking(text, num_completions)
        except ValueError as error:
            console.print(f"  {error}", markup=False)


def append_line(path: str | Path, line: str) -> None:
    """Append the line in one write and wait for the disk."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write((b"" if _ends_a_line(path) else b"\n") + f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def labelled(path: str | Path) -> set[tuple[str, str]]:
    """`(prompt, completion)` of everything that the file of rankings (or pairs) holds."""
    if not Path(path).exists():
        return set()
    found = [preference for _, preference in read_jsonl(path, parse_preference)]
    return {(prompt_key(preference.prompt), text) for preference in found for text in preference.responses}


def show(row: Completions, console: Console, *, title: str) -> None:
    """Prompt and numbered completions; control characters, which could repaint the terminal, are shown as text."""
    console.rule(title)
    messages: Iterable[str] = (
        [row.prompt]
        if isinstance(row.prompt, str)
        else [f"{message['role']}: {message['content']}" for message in row.prompt]
    )
    for text in messages:
        console.print(_printable(text), style="bold", markup=False, highlight=False)
    for number, text in enumerate(row.completions, start=1):
        console.print(f"\n[{number}]", style="cyan", markup=False)
        console.print(_printable(text), markup=False, highlight=False)
    console.print()


def _is_labelled(row: Completions, done: set[tuple[str, str]]) -> bool:
    key = prompt_key(row.prompt)
    return sum((key, text) in done for text in row.completions) >= 2


def _ends_a_line(path: str | Path) -> bool:
    content = Path(path).read_bytes() if Path(path).exists() else b""
    return not content or content.endswith(b"\n")


def _printable(text: str) -> str:
    return "".join(symbol if symbol in "\n\t" or symbol.isprintable() else repr(symbol)[1:-1] for symbol in text)


@hydra.main(version_base="1.3", config_path=CONFIG_FOLDER, config_name="preference_label")
def main(settings: DictConfig) -> None:
    """The command line."""
    try:
        config = typed_config(settings, LabelConfig)
        counts = label(config)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f": {config.output}")


if __name__ == "__main__":
    main()
