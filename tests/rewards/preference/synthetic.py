"""A preference with known truth: r*(word) adds the worth of its letters, the last one threefold, so order matters.

Labels are drawn from Bradley-Terry, so the accuracy that can be reached at all is known.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

WORTH = {"a": -1.2, "b": -0.8, "c": -0.4, "d": 0.0, "e": 0.4, "f": 0.8, "g": 1.2, "h": 0.1}


def gold(word: str) -> float:
    return sum(WORTH[letter] for letter in word) + 2 * WORTH[word[-1]]


def write_pairs(path: Path, count: int, *, seed: int, shuffle_labels: bool = False) -> float:
    """Pairs of words of 4 to 10 letters; the accuracy on them of someone who knows r*.

    `shuffle_labels` draws labels from a fair coin instead.
    """
    generator = random.Random(seed)
    right = 0
    with path.open("w") as lines:
        for number in range(count):
            left, other = (word(generator) for _ in range(2))
            if left == other:
                continue
            chance = 0.5 if shuffle_labels else 1 / (1 + math.exp(gold(other) - gold(left)))
            chosen, rejected = (left, other) if generator.random() < chance else (other, left)
            right += gold(chosen) > gold(rejected)
            lines.write(json.dumps({"prompt": f"{number % 97}:", "chosen": chosen, "rejected": rejected}) + "\n")
    return right / count


def word(generator: random.Random) -> str:
    return "".join(generator.choices(list(WORTH), k=generator.randint(4, 10)))
