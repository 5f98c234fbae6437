"""What a network's scores are worth on pairs: accuracy, likelihood, and whether it only measures length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rewards.preference.encoding import EncodedPair
from rewards.preference.losses import bradley_terry
from rewards.preference.model import ScalarHead, score_rows

Metrics = dict[str, float | None]


def wins(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 where the chosen one scores higher, 0 where lower, one half for a tie (a constant score is a coin)."""
    return ((chosen > rejected).float() + (chosen >= rejected).float()) / 2


def evaluate(chosen: Tensor, rejected: Tensor, pairs: Sequence[EncodedPair]) -> Metrics:
    """What scores say of pairs; None for a number that the pairs do not determine.

    Accuracy split by which completion is longer, and the correlation of score and length, both in completion tokens: a
    model that has learnt length shows there.
    """
    won = wins(chosen, rejected)
    lengths = torch.tensor([[p.chosen.num_completion_tokens, p.rejected.num_completion_tokens] for p in pairs]).float()
    longer = (lengths[:, 0] - lengths[:, 1]).sign()
    return {
        "pairs": float(len(pairs)),
        "accuracy": _mean(won),
        "nll": _mean(bradley_terry(chosen, rejected)),
        "accuracy_chosen_longer": _mean(won[longer > 0]),
        "accuracy_chosen_shorter": _mean(won[longer < 0]),
        "accuracy_equal_length": _mean(won[longer == 0]),
        "score_length_correlation": _correlation(torch.stack([chosen, rejected], 1).flatten(), lengths.flatten()),
    }


def all_scores(network: ScalarHead, pairs: Sequence[EncodedPair], *, batch_rows: int) -> tuple[Tensor, Tensor]:
    """`(chosen, rejected)` scores of any number of pairs, without gradient."""
    rows = [pair.chosen.ids for pair in pairs] + [pair.rejected.ids for pair in pairs]
    chosen, rejected = score_rows(network, rows, batch_rows=batch_rows).chunk(2)
    return chosen, rejected


def reference_statistics(chosen: Tensor, rejected: Tensor) -> Mapping[str, float]:
    """Mean and population standard deviation of all scores; a model that gives one score to everything gets 1."""
    scores = torch.cat([chosen, rejected]).double()
    return {"mean": scores.mean().item(), "std": scores.std(correction=0).item() or 1.0}


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _correlation(left: Tensor, right: Tensor) -> float | None:
    left, right = left.double() - left.double().mean(), right.double() - right.double().mean()
    scale = left.norm() * right.norm()
    return (left @ right / scale).item() if scale > 0 else None
