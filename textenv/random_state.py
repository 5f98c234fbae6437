"""Other people's code that draws from the global random generators, without disturbing anybody."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class RandomState:
    """The state of Python's and numpy's global generators."""

    python: Any = None
    numpy: Any = None

    @classmethod
    def seeded(cls, seed: int) -> RandomState:
        """The state behind `random.seed(seed)` and `numpy.random.seed(seed)`."""
        return cls(random.Random(seed).getstate(), np.random.RandomState(seed).get_state())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run with this state, keep what becomes of it, and put the caller's back."""
        before = random.getstate(), np.random.get_state()
        if self.python is not None:
            random.setstate(self.python)
            np.random.set_state(self.numpy)
        try:
            yield
        finally:
            self.python, self.numpy = random.getstate(), np.random.get_state()
            random.setstate(before[0])
            np.random.set_state(before[1])
