"""Values on a scale of their own: the critic learns `(target - mean) / std`, everyone else sees values in reward units.

Source: arXiv 1602.07714 (Pop-Art), sections 2.1 and 2.2; arXiv 2103.01955 (MAPPO) recommends it for PPO. As in Pop-Art,
and not in MAPPO, the head is rewritten when the scale changes, so that no value that it gives changes with it (Adam's
moments are not). Unlike both the scale changes once a rollout and not with every minibatch, by averages over about ten
rollouts, and starts from the first rollout's returns: a head that is still 0 then says their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from agents.policy import ValueHead
from agents.rollout import Rollout

DECAY = 0.9
"""What is left of a rollout's weight after another one."""
LEAST_STD = 0.01
"""Targets that are all equal have none. Pop-Art's bound is 0.0001, MAPPO's 0.1."""


@dataclass(frozen=True, slots=True)
class ValueScale:
    """Running averages of the value targets and of their squares, with the sum of their weights."""

    weight: float = 0.0
    first: float = 0.0
    second: float = 0.0

    @property
    def mean(self) -> float:
        return self.first / self.weight if self.weight else 0.0

    @property
    def std(self) -> float:
        """1 before anything is known."""
        if not self.weight:
            return 1.0
        return max(self.second / self.weight - self.mean**2, LEAST_STD**2) ** 0.5

    def update(self, target: Float[Tensor, "N A"], mask: Bool[Tensor, "N A"]) -> ValueScale:
        """The scale after another rollout; nothing in `mask` changes nothing."""
        if not mask.any():
            return self
        x, new = target[mask].double(), 1 - DECAY
        return ValueScale(
            DECAY * self.weight + new,
            DECAY * self.first + new * float(x.mean()),
            DECAY * self.second + new * float(x.square().mean()),
        )

    def normal(self, x: Tensor) -> Tensor:
        """From reward units."""
        return (x - self.mean) / self.std

    def real(self, x: Tensor) -> Tensor:
        """Into reward units."""
        return x * self.std + self.mean

    def state(self) -> dict[str, Any]:
        """For a checkpoint: `ValueScale(**state)`."""
        return asdict(self)


def restored(scale: ValueScale | None, state: Mapping[str, Any] | None) -> ValueScale | None:
    """The scale as a checkpoint says; None where values are not normalized."""
    return None if scale is None or state is None else ValueScale(**state)


def in_reward_units(rollout: Rollout, scale: ValueScale) -> Rollout:
    """`rollout` with the values that the critic's numbers mean."""
    value, final = rollout.known("value"), rollout.known("final_value")
    return rollout.with_(value=scale.real(value), final_value=scale.real(final))


def rewrite(head: ValueHead, before: ValueScale, after: ValueScale) -> None:
    """Let `head` mean by its numbers on the scale `after` what it meant on the scale `before`."""
    head.rescale(before.std / after.std, (before.mean - after.mean) / after.std)
