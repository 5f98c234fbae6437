"""Short hashes that say whether something is still what it was: settings, weights, a task's problems, a tokenizer.

They notice change, not malice: of a task they read its size and some rows, of weights the sum of every tensor's bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from textenv import Task, Tokenizer
from textenv.types import as_problem

NUM_ROWS = 32
"""Problems of a split that are read, evenly spread, the first and the last among them."""


def fingerprint(task: Task, tokenizer: Tokenizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """What a run is made of besides its settings; `model` before any training."""
    return {
        "task": {"name": task.name, **split_prints(task)},
        "tokenizer": {"name": tokenizer.name, "tokens": len(tokenizer), "hash": tokenizer_hash(tokenizer)},
        "model": {"untrained_weights": weights_hash(model)},
    }


def split_prints(task: Task) -> dict[str, dict[str, Any]]:
    """Of both splits the number of problems and the hash of some of them."""
    prints = {}
    for name in ("train", "test"):
        split = task.split(name)
        places = np.unique(np.linspace(0, len(split) - 1, min(NUM_ROWS, len(split))).astype(int)).tolist()
        problems = [as_problem(split[place]) for place in places]
        rows = short_hash([[problem.prompt, dict(problem.row)] for problem in problems])
        prints[name] = {"problems": len(split), "rows": rows}
    return prints


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Of what each token adds to a text, which ones end it, and how a chat is put."""
    chat = tokenizer.render_chat([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    return short_hash([tokenizer.token_texts(), sorted(tokenizer.end_ids), list(tokenizer.start_ids), chat])


@torch.no_grad()
def weights_hash(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Of names, shapes and the sum of every parameter's bits (in `dtype`): as fast as memory is read."""
    return short_hash(
        {
            name: [list(p.shape), str(dtype or p.dtype), bit_sum(p.to(dtype or p.dtype))]
            for name, p in model.named_parameters()
        }
    )


def bit_sum(x: Tensor) -> int:
    """The sum of a tensor's bit patterns, taken as integers; no order of adding changes it.

    >>> bit_sum(torch.tensor([0.0, 1.0])) == 0x3F800000
    True
    """
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[x.element_size()]
    return int(x.detach().contiguous().view(whole).sum(dtype=torch.int64))


def short_hash(value: Any) -> str:
    """16 hexadecimal digits of what JSON makes of `value`; the order of a mapping's keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_described)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _described(value: Any) -> Any:
    """What JSON does not know: arrays by content, anything else by its type (its address would differ every time)."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else f"<{type(value).__qualname__}>"
