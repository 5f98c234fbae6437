"""The process's global generators, keyed like everything else: by the run's seed and how far it has come.

Nothing of ours draws from them: sampling, the order of problems and of minibatches are keyed by themselves. A reward
that runs inline, a user's task or a model with dropout may. Keyed anew before every iteration and every examination,
they need no place in a checkpoint, and an examination changes nothing of what is trained afterwards.
"""

from __future__ import annotations

import random

import numpy as np
import torch

ITERATION, EXAMINATION = range(2)


def key_global_generators(seed: int, iteration: int, purpose: int) -> None:
    """Python's, NumPy's and torch's, on every device."""
    key = int(np.random.SeedSequence([seed, iteration, purpose]).generate_state(1)[0])
    random.seed(key)
    np.random.seed(key)
    torch.manual_seed(key)
