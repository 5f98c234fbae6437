"""One rollout as a function of the policy's weights: the surrogate, the KL to the old policy, and their gradients.

All of it runs through `Optimizer.accumulate`: packed microbatches, one weight a token, nothing divided twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from agents.optim import LossFunction, Optimizer
from agents.policy import Policy
from agents.rollout import Rollout
from agents.trpo.weights import read, take_gradient, write


@dataclass(frozen=True, slots=True)
class Surface:
    """`loss` is the negated surrogate of some rows and reports `approx_kl`, `divergence` their KL(old || new)."""

    policy: Policy
    optimizer: Optimizer
    rollout: Rollout
    loss: LossFunction
    divergence: LossFunction
    few: Int[Tensor, "R"]
    """Rows on which the curvature is measured."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.optimizer.actor.masters.values())

    def here(self) -> Float[Tensor, "D"]:
        """The weights as they are."""
        return read(self.parameters)

    def put(self, weights: Float[Tensor, "D"]) -> None:
        """Give the policy these weights."""
        write(self.parameters, weights)
        self.policy.model.release()  # what was laid out for acting is that of other weights

    def ascent(self) -> tuple[Float[Tensor, "D"], dict[str, float]]:
        """The surrogate's gradient where the policy is, and metrics. Raises `FloatingPointError` where it is no
        number."""
        longest = self.rollout.max_tokens
        means, _, mismatch = self.optimizer.accumulate(self.loss, self.rollout, self._all, max_tokens=longest)
        gradient = -take_gradient(self.parameters)
        if not gradient.isfinite().all():
            raise FloatingPointError(f"the gradient norm is {float(gradient.norm())}")
        return gradient, {name: x for name, x in means.items() if name != "loss"} | mismatch

    def measure(self, weights: Float[Tensor, "D"]) -> tuple[float, float]:
        """Surrogate and mean KL. Where nothing is a number any more the KL is infinite."""
        self.put(weights)
        try:
            means, _, _ = self.optimizer.accumulate(
                self.loss, self.rollout, self._all, max_tokens=self.rollout.max_tokens, backward=False
            )
        except FloatingPointError:
            return -math.inf, math.inf
        return -means["loss"], means.get("approx_kl", 0.0)

    def kl(self, weights: Float[Tensor, "D"]) -> float:
        """The mean KL over the few rows."""
        self.put(weights)
        try:
            means, _, _ = self.optimizer.accumulate(
                self.divergence, self.rollout, self.few, aggregation="token_mean", backward=False
            )
        except FloatingPointError:
            return math.inf
        return means["loss"]

    def kl_gradient(self, weights: Float[Tensor, "D"]) -> Float[Tensor, "D"]:
        """That KL's gradient."""
        self.put(weights)
        self.optimizer.accumulate(self.divergence, self.rollout, self.few, aggregation="token_mean")
        return take_gradient(self.parameters)

    @property
    def _all(self) -> Int[Tensor, "N"]:
        return torch.arange(len(self.rollout))
