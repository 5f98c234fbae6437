"""What scores are worth on judgements: accuracy, likelihood, calibration, and whether they only measure length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rewards.preference.encoding import EncodedPreference
from rewards.preference.losses import ABSENT, bradley_terry, plackett_luce
from rewards.preference.model import ScalarHead, score_rows

Metrics = dict[str, float | None]
COUNTS = ("judgements", "pairs")
BINS = 10
"""Of the calibration error: of equal width over the probabilities from 0.5 to 1."""


def wins(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 where the chosen one scores higher, 0 where lower, one half for a tie (a constant score is a coin)."""
    return ((chosen > rejected).float() + (chosen >= rejected).float()) / 2


def evaluate(scores: Float[Tensor, " R"], preferences: Sequence[EncodedPreference]) -> Metrics:
    """What scores, those of all responses in their order, say of judgements; None for a number that is not determined.

    Pairs are all those of different places of one judgement, and each counts the same. Accuracy is split by which
    completion is longer and by how far the lengths are apart (half of the pairs of different length on either side),
    in completion tokens: a model that has learnt length shows there and in the correlation of score and length.
    """
    better, worse = strict_pairs(preferences)
    lengths = torch.tensor([row.num_completion_tokens for p in preferences for row in p.rows]).float()
    won, gap = wins(scores[better], scores[worse]), lengths[better] - lengths[worse]
    return {
        "judgements": float(len(preferences)),
        "pairs": float(len(better)),
        "accuracy": _mean(won),
        "nll": _mean(bradley_terry(scores[better], scores[worse])),
        "ranking_nll": _ranking_nll(scores, preferences),
        "calibration_error": calibration_error(scores[better] - scores[worse]),
        **best_of_k(scores, preferences),
        "accuracy_chosen_longer": _mean(won[gap > 0]),
        "accuracy_chosen_shorter": _mean(won[gap < 0]),
        "accuracy_equal_length": _mean(won[gap == 0]),
        **_by_distance(won, gap.abs()),
        "score_length_correlation": _correlation(scores, lengths),
    }


def strict_pairs(preferences: Sequence[EncodedPreference]) -> tuple[Tensor, Tensor]:
    """Indices of the better and the worse response of every pair that is no tie, into all responses in order."""
    pairs, first = [], 0
    for preference in preferences:
        pairs += [
            (first + i, first + j)
            for i, j in combinations(range(len(preference.rows)), 2)
            if preference.places[i] < preference.places[j]
        ]
        first += len(preference.rows)
    table = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def rectangle(
    scores: Float[Tensor, " R"], preferences: Sequence[EncodedPreference]
) -> tuple[Float[Tensor, "N K"], Tensor, Tensor]:
    """`(score, place, level)`, a row for each judgement, as the losses take them; gradients flow."""
    sizes = [len(preference.rows) for preference in preferences]
    score = pad_sequence(list(scores.split(sizes)), batch_first=True)
    place = pad_sequence([torch.tensor(p.places) for p in preferences], batch_first=True, padding_value=ABSENT)
    level = pad_sequence([torch.tensor(p.levels) for p in preferences], batch_first=True)
    return score, place.to(score.device), level.to(score.device)


def best_of_k(scores: Float[Tensor, " R"], preferences: Sequence[EncodedPreference]) -> Metrics:
    """How often the response with the highest score is one of the best, over judgements of 3 or more, and what chance
    would give. Equal highest scores share the point, as a draw among them would."""
    right, chance, first = [], [], 0
    for preference in preferences:
        own = scores[first : first + len(preference.rows)]
        first += len(preference.rows)
        if len(own) < 3 or preference.places[-1] == 0:
            continue
        is_best = torch.tensor(preference.places) == 0
        highest = own == own.max()
        right.append((is_best & highest).sum().item() / highest.sum().item())
        chance.append(is_best.float().mean().item())
    return {"best_of_k": _mean(torch.tensor(right)), "best_of_k_by_chance": _mean(torch.tensor(chance))}


def calibration_error(difference: Float[Tensor, " P"]) -> float | None:
    """Expected calibration error (Naeini et al. 2015; Guo et al., arXiv:1706.04599) of the probabilities
    sigmoid(|difference|) that the response of higher score is the better one.

    The mean over pairs of |share of right ones - mean probability| of their bin: `BINS` bins of equal width from 0.5 to
    1, each closed below. Of few pairs it is above 0 even for the truth, since shares scatter. `difference` is the
    better response's score less the worse one's.
    """
    if not len(difference):
        return None
    probability = difference.double().abs().sigmoid()
    bins = ((probability - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    excess = wins(difference, torch.zeros_like(difference)).double() - probability
    per_bin = torch.zeros(BINS, dtype=torch.double).index_add(0, bins, excess)
    return (per_bin.abs().sum() / len(difference)).item()


def all_scores(
    network: ScalarHead, preferences: Sequence[EncodedPreference], *, batch_rows: int
) -> Float[Tensor, " R"]:
    """The scores of all responses in their order, without gradient."""
    return score_rows(network, [row.ids for p in preferences for row in p.rows], batch_rows=batch_rows)


def reference_statistics(scores: Float[Tensor, " R"]) -> dict[str, float]:
    """Mean and population standard deviation; a model that gives one score to everything gets 1."""
    return {"mean": scores.double().mean().item(), "std": scores.double().std(correction=0).item() or 1.0}


def as_text(metrics: Metrics) -> list[tuple[str, str]]:
    """Names and numbers for people; a dash for what is not determined.

    >>> as_text({"pairs": 3.0, "ranking_nll": None, "accuracy": 0.5})
    [('pairs', '3'), ('ranking nll', '-'), ('accuracy', '0.500')]
    """
    return [
        (name.replace("_", " "), "-" if value is None else f"{value:.0f}" if name in COUNTS else f"{value:.3f}")
        for name, value in metrics.items()
    ]


def _ranking_nll(scores: Tensor, preferences: Sequence[EncodedPreference]) -> float | None:
    """Plackett-Luce's, a mean over judgements; None where all are pairs, for which it is `nll`."""
    if all(len(preference.rows) == 2 for preference in preferences):
        return None
    score, place, _ = rectangle(scores, preferences)
    return _mean(plackett_luce(score, place, ties="drop"))


def _by_distance(won: Tensor, distance: Tensor) -> Metrics:
    won, distance = won[distance > 0], distance[distance > 0]
    middle = distance.median() if len(distance) else 0.0
    return {
        "accuracy_lengths_close": _mean(won[distance <= middle]),
        "accuracy_lengths_apart": _mean(won[distance > middle]),
    }


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _correlation(left: Tensor, right: Tensor) -> float | None:
    left, right = left.double() - left.double().mean(), right.double() - right.double().mean()
    scale = left.norm() * right.norm()
    return (left @ right / scale).item() if scale > 0 else None
