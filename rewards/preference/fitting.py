"""Fitting the network to judgements: AdamW, warm-up and decay, clipped gradients."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rewards.preference.config import TrainConfig
from rewards.preference.encoding import EncodedPreference, pad_right, shuffled_batches
from rewards.preference.evaluation import Metrics, rectangle, strict_pairs, wins
from rewards.preference.losses import all_pairs, centering, plackett_luce
from rewards.preference.model import ScalarHead


def fit(
    network: ScalarHead,
    optimizer: torch.optim.Optimizer,
    preferences: Sequence[EncodedPreference],
    config: TrainConfig,
    *,
    learning_rate: float,
    done: int = 0,
) -> Iterator[tuple[int, Metrics]]:
    """Train in place, an optimizer step each time the next `(step, metrics)` is asked for, counted from 1.

    With the network's and the optimizer's state after `done` steps, those that are left go as they would have gone.
    Raises `ArithmeticError` where loss or gradient are no longer finite.
    """
    all_batches = batches(preferences, config)
    for step, batch in enumerate(all_batches[done:], start=done):
        factor = rate_factor(step, len(all_batches), warmup_share=config.warmup_share, schedule=config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * factor
        metrics = accumulate_gradient(network, [preferences[index] for index in batch], config)
        metrics["grad_norm"] = clip_grad_norm_(network.parameters(), config.max_grad_norm).item()
        _check_finite(metrics, step + 1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step + 1, {**metrics, "learning_rate": learning_rate * factor}


def batches(preferences: Sequence[EncodedPreference], config: TrainConfig) -> list[list[int]]:
    """Those of all epochs, in order; they depend on lengths, batch size and seed alone."""
    generator = random.Random(config.seed)
    lengths = [max(len(row.ids) for row in preference.rows) for preference in preferences]
    return [batch for _ in range(config.epochs) for batch in shuffled_batches(lengths, config.batch_size, generator)]


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


def accumulate_gradient(network: ScalarHead, preferences: Sequence[EncodedPreference], config: TrainConfig) -> Metrics:
    """Add the gradient of the judgements' mean loss, however many forwards that takes; the loss and its metrics."""
    size = config.microbatch_size or len(preferences)
    loss, correct, gap, num_pairs = 0.0, 0.0, 0.0, 0
    for start in range(0, len(preferences), size):
        part = preferences[start : start + size]
        scores = score_responses(network, part)
        losses = preference_loss(scores, part, config)
        (losses.sum() / len(preferences)).backward()
        better, worse = strict_pairs(part)
        chosen, rejected = scores.detach().cpu()[better], scores.detach().cpu()[worse]
        loss += losses.sum().item()
        correct += wins(chosen, rejected).sum().item()
        gap += (chosen - rejected).sum().item()
        num_pairs += len(better)
    of_pairs = {"accuracy": correct / max(num_pairs, 1), "score_gap": gap / max(num_pairs, 1)}
    return {"loss": loss / len(preferences), **of_pairs}


def preference_loss(
    scores: Float[Tensor, " R"], preferences: Sequence[EncodedPreference], config: TrainConfig
) -> Float[Tensor, " N"]:
    """The loss of each judgement, as the settings say."""
    score, place, level = rectangle(scores, preferences)
    if config.loss == "plackett_luce":
        losses = plackett_luce(score, place, ties=config.ties)
    else:
        losses = all_pairs(score, place, level, ties=config.ties)
    return losses + centering(score, place, config.centering)


def score_responses(network: ScalarHead, preferences: Sequence[EncodedPreference]) -> Float[Tensor, " R"]:
    """The scores of all responses in their order, from one forward."""
    ids, mask = pad_right([row.ids for preference in preferences for row in preference.rows], pad_id=0)
    device = network.head.weight.device
    return network(ids.to(device), mask.to(device))


def make_optimizer(network: ScalarHead, config: TrainConfig) -> torch.optim.Optimizer:
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
