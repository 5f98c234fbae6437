"""Fitting the network to pairs: AdamW, warm-up and decay, clipped gradients."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rewards.preference.config import TrainConfig
from rewards.preference.encoding import EncodedPair, pad_right, shuffled_batches
from rewards.preference.evaluation import Metrics, wins
from rewards.preference.losses import bradley_terry, centering
from rewards.preference.model import ScalarHead


def fit(
    network: ScalarHead,
    pairs: Sequence[EncodedPair],
    config: TrainConfig,
    *,
    learning_rate: float,
    report: Callable[[int, Metrics], None],
) -> None:
    """Train in place; `report(step, metrics)` after every optimizer step, counted from 1.

    Raises `ArithmeticError` where loss or gradient are no longer finite.
    """
    generator = random.Random(config.seed)
    optimizer = _optimizer(network, config)
    total = num_steps(len(pairs), config)
    step = 0
    for _ in range(config.epochs):
        for batch in shuffled_batches([_length(pair) for pair in pairs], config.batch_pairs, generator):
            rate = learning_rate * rate_factor(step, total, warmup_share=config.warmup_share, schedule=config.schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate
            step += 1
            metrics = accumulate_gradient(network, [pairs[index] for index in batch], config)
            metrics["grad_norm"] = clip_grad_norm_(network.parameters(), config.max_grad_norm).item()
            _check_finite(metrics, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            report(step, {**metrics, "learning_rate": rate})


def num_steps(num_pairs: int, config: TrainConfig) -> int:
    """Optimizer steps of a training."""
    return config.epochs * math.ceil(num_pairs / config.batch_pairs)


def rate_factor(step: int, total: int, *, warmup_share: float, schedule: str) -> float:
    """The learning rate's share of its peak at a step counted from 0; above 0 in the first and the last step.

    >>> [rate_factor(step, 4, warmup_share=0.5, schedule="linear") for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = math.ceil(warmup_share * total)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[schedule]


def accumulate_gradient(network: ScalarHead, pairs: Sequence[EncodedPair], config: TrainConfig) -> Metrics:
    """Add the gradient of the pairs' mean loss, however many forwards that takes; the loss and its metrics."""
    size = config.microbatch_pairs or len(pairs)
    loss, correct, gap = 0.0, 0.0, 0.0
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        chosen, rejected = score_pairs(network, part)
        margin = torch.tensor([pair.margin for pair in part], device=chosen.device)
        losses = bradley_terry(chosen, rejected, margin) + centering(chosen, rejected, config.centering)
        (losses.sum() / len(pairs)).backward()
        loss += losses.sum().item()
        correct += wins(chosen, rejected).sum().item()
        gap += (chosen - rejected).sum().item()
    return {"loss": loss / len(pairs), "accuracy": correct / len(pairs), "score_gap": gap / len(pairs)}


def score_pairs(network: ScalarHead, pairs: Sequence[EncodedPair]) -> tuple[Tensor, Tensor]:
    """`(chosen, rejected)` scores, both from one forward."""
    rows = [pair.chosen.ids for pair in pairs] + [pair.rejected.ids for pair in pairs]
    ids, mask = pad_right(rows, pad_id=0)
    device = network.head.weight.device
    chosen, rejected = network(ids.to(device), mask.to(device)).chunk(2)
    return chosen, rejected


def _optimizer(network: ScalarHead, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay only on matrices."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]])


def _check_finite(metrics: Metrics, step: int) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name] or 0.0):
            raise ArithmeticError(f"{name} is {metrics[name]} at step {step}: a lower learning_rate may help")


def _length(pair: EncodedPair) -> int:
    return max(len(pair.chosen.ids), len(pair.rejected.ids))
