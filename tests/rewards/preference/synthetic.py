"""A preference with known truth: r*(word) adds the worth of its letters, the last one threefold, so order matters.

Labels are drawn from Bradley-Terry, so the accuracy that can be reached at all is known. The numbers over seeds:
`PYTHONPATH=. python tests/rewards/preference/synthetic.py`.
"""

from __future__ import annotations

import io
import json
import math
import random
import tempfile
from pathlib import Path

from rich.console import Console

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


def main() -> None:
    """Train on five seeds, from right and from shuffled labels, with the settings of test_train.py; one line each."""
    from rewards.preference.config import TrainConfig
    from rewards.preference.training import train

    for shuffle_labels in (False, True):
        for seed in range(5):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_pairs(folder / "train.jsonl", 6000, seed=100 + seed, shuffle_labels=shuffle_labels)
                bayes = write_pairs(folder / "eval.jsonl", 2000, seed=200 + seed)
                data = {"data": str(folder / "train.jsonl"), "eval_data": str(folder / "eval.jsonl")}
                config = TrainConfig(**data, output=str(folder / "rm"), max_length=64, seed=seed)
                summary = train(config, console=Console(file=io.StringIO()))
            accuracy, nll = summary["eval"]["accuracy"], summary["eval"]["nll"]
            kind = "shuffled" if shuffle_labels else "sampled "
            print(
                f"{kind} seed {seed}  Bayes {bayes:.4f}  accuracy {accuracy:.4f}  NLL {nll:.3f}  {summary['seconds']} s"
            )


if __name__ == "__main__":
    main()
