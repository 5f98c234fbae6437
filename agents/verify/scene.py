"""A world with the policies that meet in it: the one whose gradient is asked for, the one that acted, the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations_with_replacement, product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.rollout import Rollout
from agents.verify.world import TablePolicy, World, enumerated

BANDIT = ([[0.3, -0.2, 0.5]], [[0.1, 0.2, -0.3]], [[-0.6, 0.3, 0.0]])
"""Three arms: the policy, an older one, the reference."""
EASY_AND_HARD = ([[-1.0, 1.0], [1.0, -0.5], [0.5, -0.5], [-0.5, 0.5]],)
"""Two prompts of two states: the best answer has probability .72 and .07."""
SCORES = [0.0, 1.0, 0.0, 0.0, 0.3, 0.1]
"""What they pay for ending at once, for a letter and an end, for two letters."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What an expected gradient depends on, apart from the settings of an agent."""

    world: World
    policy: TablePolicy
    acted: TablePolicy
    """The policy itself, or an older one."""
    reference: TablePolicy

    @property
    def off_policy(self) -> bool:
        return self.acted is not self.policy

    def probability(self) -> Float[Tensor, "K"]:
        """How often each trajectory is drawn for its prompt."""
        return self.acted.trajectories().exp().detach()

    def value(self, score: Float[Tensor, "K"]) -> Float[Tensor, "S"]:
        """What the policy that acted earns on average from every state on, when a trajectory earns `score`."""
        mass = torch.where(self.world.mask, self.probability()[:, None], 0.0)
        zeros = mass.new_zeros(self.world.num_states)
        state, earned = self.world.state.flatten(), mass * score[:, None]
        return zeros.index_add(0, state, earned.flatten()) / zeros.index_add(0, state, mass.flatten())

    def occupancy(self) -> Float[Tensor, "S"]:
        """How often the policy that acted is in each state, in one trajectory of the state's prompt."""
        mass = torch.where(self.world.mask, self.probability()[:, None], 0.0)
        return mass.new_zeros(self.world.num_states).index_add(0, self.world.state.flatten(), mass.flatten())

    def batches(self) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B"]]:
        """Every batch that can be drawn and its probability. The order of rows does not matter (`tests/agents/
        test_invariance.py`), so that a batch is a multiset for each prompt."""
        probability = self.probability().tolist()
        groups = [
            list(self._groups((self.world.prompt == p).nonzero()[:, 0].tolist(), probability))
            for p in range(self.world.num_prompts)
        ]
        drawn = [
            (sum((rows for rows, _ in some), ()), math.prod(chance for _, chance in some)) for some in product(*groups)
        ]
        rows, chance = zip(*drawn, strict=True)
        return torch.tensor(rows), torch.tensor(chance, dtype=torch.float64)

    def _groups(self, numbers: list[int], probability: list[float]) -> Iterator[tuple[tuple[int, ...], float]]:
        for rows in combinations_with_replacement(numbers, self.world.group_size):
            orders = math.factorial(len(rows))
            for number in set(rows):
                orders //= math.factorial(rows.count(number))
            yield rows, orders * math.prod(probability[number] for number in rows)


@cache
def scene(name: str, *, older: bool = False, group_size: int | None = None) -> Scene:
    """The scene of that name; with `older` the policy that acted is not the one whose gradient is asked for. A
    `group_size` other than the scene's own makes more batches.

    `bandit`: three arms of one token. `letters`: one prompt, two letters and an end, at most two tokens. `cut`: the same
    where more could be earned behind them. `prompts`: two of one letter, one easy and one hard. `long`: four tokens, at
    most three of them.
    """
    if name == "bandit":
        made, logits = enumerated(3, 1, group_size=2), BANDIT
    elif name == "letters":
        made, logits = enumerated(3, 2, group_size=3), ()
    elif name == "cut":
        made, logits = enumerated(3, 2, group_size=3, beyond=0.5), ()
    elif name == "prompts":
        made, logits = enumerated(2, 2, prompts=2, group_size=3, score=SCORES), EASY_AND_HARD
    elif name == "long":
        made, logits = enumerated(4, 3, group_size=2), ()
    else:
        raise ValueError(f"scene must be one of bandit, letters, cut, prompts, long, got {name!r}")
    if group_size is not None:
        made = replace(made, group_size=group_size)
    known = [torch.tensor(table, dtype=torch.float64) for table in logits]
    shape = made.num_states, made.vocabulary
    random = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    policy, change, reference = [*known, *random[len(known) :]]
    old = change if len(known) > 1 else policy + 0.8 * change
    current = TablePolicy(made, policy)
    return Scene(made, current, TablePolicy(made, old) if older else current, TablePolicy(made, reference))
