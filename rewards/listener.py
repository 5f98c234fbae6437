"""A listener with a taste of their own: a true reward of which every number is known, for trying learned rewards out.

A melody is a text, a letter a note. The listener likes some notes and some steps from one note to the next, and is
bored by a note that is heard too often. In random melodies that is rare, so a reward model that learns from them hardly
hears of it: what it then lets a policy do is the over-optimization of Gao et al. (arXiv 2210.10760), in small.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

from rewards.types import Score

NOTES = "abcdefghijklmnopqrstuvwx"


class Listener:
    """Pays (sum of notes + sum of steps - boredom x repeats) / sqrt(number of notes); 0 for silence.

    Each note is worth a draw from N(0, 1) and each ordered pair of neighbours one from N(0, `steps`^2), both fixed by
    `seed`; the step into the first note is from the prompt's last. `repeats` are the notes beyond the `patience`-th of
    their kind, null: nothing bores. Characters that are no notes are worth 0.
    """

    execution = "inline"

    def __init__(
        self, *, steps: float = 0.7, patience: int | None = 3, boredom: float = 5.0, notes: str = NOTES, seed: int = 0
    ) -> None:
        for name, value in (("steps", steps), ("boredom", boredom)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1 or null, got {patience}")
        generator = random.Random(seed)
        self.patience, self.boredom = patience, boredom
        self.worth = {note: generator.gauss(0, 1) for note in notes}
        self.step = {(a, b): generator.gauss(0, steps) for a in notes for b in notes}

    def __call__(self, prompt: str, completion: str) -> Score:
        if not completion:
            return Score(0.0, metrics={"repeats": 0.0})
        repeats = 0 if self.patience is None else sum(max(0, n - self.patience) for n in Counter(completion).values())
        notes = sum(self.worth.get(note, 0.0) for note in completion)
        steps = sum(self.step.get(two, 0.0) for two in pairwise(prompt[-1:] + completion))
        value = (notes + steps - self.boredom * repeats) / math.sqrt(len(completion))
        return Score(value, metrics={"repeats": float(repeats)})
