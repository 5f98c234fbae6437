"""What every system is asked to generate in `benchmarks.rollout`: prompts as tokens, and how long each answer gets.

different        every row its own prompt, all of one length
shared_prompts   8 completions of each prompt
ragged_prompts   prompts of lengths around the same mean: Hugging Face's `generate` pads them on the left, takes
                 another attention path, and is faster so
ragged_lengths   the same, and answers end early: the lengths are drawn beforehand, forced on every system alike
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

SAMPLES = 8
GREEDY_ROWS, GREEDY_TOKENS = 6, 12
TEXT = Path(__file__).resolve().parents[1] / "README.md"


@dataclass(frozen=True, slots=True)
class Workload:
    """Completion k answers prompt `k // samples` with `lengths[k]` tokens."""

    prompts: list[list[int]]
    samples: int
    lengths: list[int]

    @property
    def num_tokens(self) -> int:
        """Tokens to generate: only these count."""
        return sum(self.lengths)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def workloads(source: Sequence[int], *, rows: int, prompt: int, new: int, seed: int = 0) -> dict[str, Workload]:
    """All of them by name, and `greedy`: a few short ones for comparing systems before any is timed.

    Prompts are windows of `source`, which must be longer than the longest. Raises `ValueError` for sizes that cannot
    be.
    """
    for name, value, least in (("rows", rows, 1), ("prompt", prompt, 2), ("new", new, 2)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if rows % SAMPLES:
        raise ValueError(f"rows must be a multiple of {SAMPLES}, the completions of a shared prompt, got {rows}")
    random_ = random.Random(seed)

    def cut(size: int) -> list[int]:
        start = random_.randrange(len(source) - size)
        return list(source[start : start + size])

    equal = [cut(prompt) for _ in range(rows)]
    ragged = [cut(size) for size in around(prompt, rows, random_)]
    short = [cut(size) for size in range(2, 2 + GREEDY_ROWS)]
    return {
        "different": Workload(equal, 1, [new] * rows),
        "shared_prompts": Workload(equal[: rows // SAMPLES], SAMPLES, [new] * rows),
        "ragged_prompts": Workload(ragged, 1, [new] * rows),
        "ragged_lengths": Workload(ragged, 1, drawn_lengths(rows, new, random_)),
        "greedy": Workload(short, 1, [GREEDY_TOKENS] * GREEDY_ROWS),
    }


def around(mean: int, count: int, random_: random.Random) -> list[int]:
    """Sizes evenly from 7/8 to 9/8 of `mean`, in random order: enough that padding is needed, too little that it
    costs.

    >>> sorted(around(64, 5, random.Random(0)))
    [56, 60, 64, 68, 72]
    """
    spread = mean // 8
    sizes = [mean - spread + round(2 * spread * k / max(count - 1, 1)) for k in range(count)]
    random_.shuffle(sizes)
    return sizes


def drawn_lengths(count: int, most: int, random_: random.Random) -> list[int]:
    """As if every token were the last with one probability, cut at `most`, with the mean at half of it.

    The quantiles are evenly spaced and only their order is drawn, so that the mean hardly depends on chance.
    """
    end = end_probability(most)
    quantiles = [(k + 0.5) / count for k in range(count)]
    lengths = [min(most, 1 + math.floor(math.log1p(-q) / math.log1p(-end))) for q in quantiles]
    random_.shuffle(lengths)
    return lengths


def end_probability(most: int) -> float:
    """The p with which a geometric length cut at `most`, whose mean is (1 - (1 - p)^most) / p, has mean
    `most / 2`."""
    low, high = 1e-9, 1.0 - 1e-9
    for _ in range(100):
        p = (low + high) / 2
        low, high = (p, high) if (1 - (1 - p) ** most) / p > most / 2 else (low, p)
    return (low + high) / 2


def source_tokens(folder: Path, longest: int) -> list[int]:
    """Running text for prompts: this project's README where the model has a tokenizer, else random tokens."""
    if (folder / "tokenizer.json").is_file():
        ids = AutoTokenizer.from_pretrained(folder)(TEXT.read_text(), verbose=False)["input_ids"]
        return ids * (1 + longest // len(ids))
    vocabulary = AutoConfig.from_pretrained(folder).get_text_config().vocab_size
    random_ = random.Random(0)
    return [random_.randrange(1, vocabulary) for _ in range(max(4096, 2 * longest))]
