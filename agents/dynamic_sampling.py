"""Dynamic sampling: groups that teach nothing are replaced by groups of further problems.

Where all completions of a problem are paid the same there is nothing to compare, and a batch that is full of such
groups has a gradient as noisy as that of a much smaller one. So further problems are answered until as many groups as
were asked for have variance, or the rounds are spent.

Source: arXiv 2503.14476 (DAPO), section 3.2, equation 11. There a round is a whole batch, what it holds beyond the
need is thrown away, and there is no end of rounds. Here a round asks for exactly as many problems as groups are
missing, so that no group with variance is thrown away. A group is judged by its outcome: what the environment paid,
before a KL to a reference is taken off it (in which no two returns are equal), and without the parts of the reward that
only shape it, such as the punishment of long answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from agents.advantages import has_variance
from agents.collect import Collected, merged
from agents.rollout import Rollout
from rewards.combine import Part

Draw = Callable[[int, int], Collected]
"""`(first, count)`: the answers to the problems `first` to `first + count` of this iteration; groups numbered so."""
Outcome = Callable[[Rollout], Float[Tensor, "N"]]
"""One number a row, in which a group must differ to be kept."""


def paid(rollout: Rollout) -> Float[Tensor, "N"]:
    """The outcome where every part counts."""
    return rollout.returns


def outcome_without(ignored: Collection[str], parts: Mapping[str, Part]) -> Outcome:
    """The outcome where the `ignored` parts of the reward do not count. Raises `ValueError` for a name that is no part
    of the sum (a gate is none, its factor is in every part) and where no part would be left."""
    names = [name for name, part in parts.items() if not part.gate]
    for name in ignored:
        if name not in names:
            raise ValueError(f"agent.resample_ignores must name parts of the reward ({', '.join(names)}), got {name}")
    if not ignored:
        return paid
    if not set(names) - set(ignored):
        raise ValueError(f"agent.resample_ignores must leave a part of the reward, got {', '.join(ignored)}")
    counts = torch.tensor([name not in ignored for name in names] + [True])

    def outcome(rollout: Rollout) -> Float[Tensor, "N"]:
        return (rollout.known("parts") * rollout.known("part_weight"))[:, counts].sum(1)

    return outcome


def refilled(
    draw: Draw,
    num_groups: int,
    *,
    rounds: int,
    outcome: Outcome = paid,
    on_round: Callable[[str], None] | None = None,
) -> Collected:
    """`num_groups` groups with variance, or as many as the first draw and `rounds` further ones hold; the rest is
    `dropped`.

    With `rounds=0` it is the first draw as it is. Where no group at all has variance the first draw is handed over,
    that there is something to take an update's means over; its advantages are 0. `on_round` is told how far it is
    before every further draw.
    """
    if rounds == 0:
        return draw(0, num_groups)
    kept: list[Collected] = []
    dropped: list[Collected] = []
    num_drawn, missing, num_rounds = 0, num_groups, 0
    while missing and num_rounds <= rounds:
        if num_rounds and on_round is not None:
            on_round(f"{num_groups - missing} of {num_groups} groups vary, round {num_rounds + 1} of {rounds + 1}")
        collected = draw(num_drawn, missing)
        num_drawn, num_rounds = num_drawn + missing, num_rounds + 1
        problem = collected.rollout.problem
        varies = has_variance(outcome(collected.rollout), problem, collected.rollout.valid)
        kept.append(collected[varies.nonzero()[:, 0]])
        dropped.append(collected[(~varies).nonzero()[:, 0]])
        missing -= problem[varies].unique().numel()
    if missing == num_groups:
        kept, dropped = dropped[:1], dropped[1:]
    rest = [one for one in dropped if one.ended]
    return replace(merged(kept), dropped=merged(rest) if rest else None, rounds=num_rounds)


def sampling_metrics(collected: Collected) -> dict[str, float]:
    """`groups/dropped_share`: groups without variance that were replaced, of all that were generated; `groups/rounds`:
    the rollouts that it took."""
    dropped = 0 if collected.dropped is None else collected.dropped.rollout.problem.unique().numel()
    kept = collected.rollout.problem.unique().numel()
    return {"groups/dropped_share": dropped / (dropped + kept), "groups/rounds": float(collected.rounds)}
