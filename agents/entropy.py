"""Who sets the weight of the entropy bonus: it stays, or it follows a target.

Each is a frozen record, replaced by its own `update` after every rollout. An agent makes one of them
(`entropy_control`), gives its `weight` to `agents.losses.entropy_bonus`, and hands the entropy that an update saw to
`update`. `control_state` and `restored` are what a checkpoint keeps of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class FixedEntropy:
    """The weight stays as it is."""

    weight: float

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"the weight of the entropy bonus must be at least 0, got {self.weight}")

    @property
    def wants_entropy(self) -> bool:
        """Whether a loss has to compute the entropy."""
        return self.weight > 0

    def update(self, entropy: float) -> FixedEntropy:
        return self


@dataclass(frozen=True, slots=True)
class TargetEntropy:
    """The coefficient rises by `step` below the target and falls by it above, within [0, `most`]; it acts only below.

    Source: arXiv 2505.22312 (Skywork-OR1), adaptive entropy control: `c <- c + step` where the entropy is below its
    target and `c - step` where it is above, and the weight is c only while the entropy is at most the target, 0 else:
    a coefficient that has grown in a long fall must not push when the fall is over. Here it has an upper bound, and the
    entropy that is compared is that of the rollout before (its own is not known before its update).

    >>> low = TargetEntropy(coefficient=0.0, target=0.5, step=0.01).update(0.3).update(0.4)
    >>> low.weight, low.update(0.6).weight, low.update(0.6).coefficient
    (0.02, 0.0, 0.01)
    """

    coefficient: float
    target: float
    """In nats per token."""
    step: float = 0.005
    most: float = 1.0
    below: bool = False
    """Whether the entropy was at most the target when it was last seen; unknown counts as no."""

    def __post_init__(self) -> None:
        if not self.target > 0:
            raise ValueError(f"the target of the entropy must be positive, got {self.target}")
        if not self.step > 0:
            raise ValueError(f"the step of the entropy's coefficient must be positive, got {self.step}")
        if not 0 <= self.coefficient <= self.most:
            raise ValueError(f"the entropy's coefficient must be in [0, {self.most}], got {self.coefficient}")

    @property
    def weight(self) -> float:
        """Of the bonus in the next update."""
        return self.coefficient if self.below else 0.0

    @property
    def wants_entropy(self) -> bool:
        """Always: what is not seen cannot be compared."""
        return True

    def update(self, entropy: float) -> TargetEntropy:
        """The record for the next rollout. Raises `ValueError` for an entropy that is not finite."""
        if not math.isfinite(entropy):
            raise ValueError(f"the entropy must be finite, got {entropy}")
        change = self.step if entropy < self.target else -self.step if entropy > self.target else 0.0
        coefficient = min(max(self.coefficient + change, 0.0), self.most)
        return replace(self, coefficient=coefficient, below=entropy <= self.target)


EntropyControl = FixedEntropy | TargetEntropy


def entropy_control(coefficient: float, target: float | None, *, step: float, most: float) -> EntropyControl:
    """Fixed without a target."""
    return FixedEntropy(coefficient) if target is None else TargetEntropy(coefficient, target, step, most)


def check_entropy(coefficient: float, target: float | None, step: float, most: float) -> None:
    """Raise `ValueError` for settings that cannot work, with setting, rule and value."""
    if not (math.isfinite(coefficient) and coefficient >= 0):
        raise ValueError(f"agent.entropy_coef must be at least 0, got {coefficient}")
    if target is None:
        return
    if not target > 0:
        raise ValueError(f"agent.entropy_target must be positive or null, got {target}")
    if not step > 0:
        raise ValueError(f"agent.entropy_step must be positive, got {step}")
    if not coefficient <= most:
        raise ValueError(f"agent.entropy_coef must be at most agent.entropy_max = {most} to adapt, got {coefficient}")


def control_state(control: EntropyControl) -> dict[str, Any]:
    """What changes in it, for a checkpoint."""
    return {} if isinstance(control, FixedEntropy) else {"coefficient": control.coefficient, "below": control.below}


def restored(control: EntropyControl, state: Mapping[str, Any]) -> EntropyControl:
    """The record as `state` says."""
    return control if isinstance(control, FixedEntropy) else replace(control, **state)
