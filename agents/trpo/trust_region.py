"""The longest step along the natural gradient that a bound on the KL allows, and a line search that holds it to that.

Source: arXiv 1502.05477 (TRPO), appendix C. With g the surrogate's gradient and F the Fisher matrix, that is the second
derivative of the mean KL(old || new) at the old weights, the step is `sqrt(2 max_kl / x'Fx) x` with `x = F^-1 g`.

How we differ. A product with F is a difference of gradients of the KL on both sides of the old weights, because what is
between weights and log-probabilities here has first derivatives only (`agents.policy.gradients`). The KL is estimated
from the rollout's own tokens (k3), and so F is the empirical Fisher, the mean outer product of the tokens' scores. The
damping is a share of the curvature along g, so that it means the same for every model.

Everything here is about functions of a flat vector of weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from agents.trpo.conjugate_gradient import conjugate_gradient

PROBE_KL = 1e-4
"""In nats: the KL at the distance at which gradients are compared, log-probabilities that differ by about 0.01: far
above the rounding of float32, and where the KL is still a parabola."""
PROBES = 8

Measure = Callable[[Tensor], tuple[float, float]]
"""The surrogate (more is better) and the KL to the old policy at some weights."""


@dataclass(frozen=True, slots=True)
class Search:
    """What a line search came to."""

    weights: Float[Tensor, "D"]
    """Those to go on with: the old ones, the same tensor, where nothing was accepted."""
    accepted: bool
    backtracks: int
    """Lengths that were refused."""
    improvement: float = 0.0
    """Of the surrogate."""
    kl: float = 0.0


def natural_step(
    weights: Float[Tensor, "D"],
    gradient: Float[Tensor, "D"],
    *,
    kl: Callable[[Tensor], float],
    kl_gradient: Callable[[Tensor], Tensor],
    max_kl: float,
    damping: float,
    steps: int,
    tolerance: float,
) -> tuple[Float[Tensor, "D"] | None, float]:
    """The step whose KL is `max_kl` to the first order, and the conjugate gradient's residual.

    None where no step can be told: no gradient, or none of it changes what the policy does.
    """
    radius, curvature = probe(kl, weights, gradient)
    if not curvature > 0:
        return None, 0.0

    def fisher(vector: Tensor) -> Tensor:
        return fisher_product(kl_gradient, weights, vector, radius=radius)

    def damped(vector: Tensor) -> Tensor:
        return fisher(vector) + damping * curvature * vector

    x, residual = conjugate_gradient(damped, gradient, steps=steps, tolerance=tolerance)
    squared = float(x.dot(fisher(x)))
    return (x * (2 * max_kl / squared) ** 0.5 if squared > 0 else None), residual


def fisher_product(
    kl_gradient: Callable[[Tensor], Tensor], weights: Float[Tensor, "D"], vector: Float[Tensor, "D"], *, radius: float
) -> Float[Tensor, "D"]:
    """F times `vector`, from the KL's gradients at the distance `radius` on both sides of the old weights."""
    size = float(vector.norm())
    if size == 0:
        return vector
    away = vector * (radius / size)
    return (kl_gradient(weights + away) - kl_gradient(weights - away)) * (size / (2 * radius))


def probe(
    kl: Callable[[Tensor], float], weights: Float[Tensor, "D"], direction: Float[Tensor, "D"]
) -> tuple[float, float]:
    """A distance along `direction` at which the KL is about `PROBE_KL`, and the curvature v'Fv of its unit vector.

    Where no such distance is found, that of the last KL that was a number. Curvature 0: no direction, or a KL that does
    not grow along it.
    """
    size = float(direction.norm())
    radius, curvature = 0.0, 0.0
    distance = 1e-3 * max(float(weights.norm()), 1.0)
    for _ in range(PROBES if size else 0):
        found = kl(weights + direction * (distance / size))
        if 0 < found < math.inf:
            radius, curvature = distance, 2 * found / distance**2
        if PROBE_KL / 4 <= found <= PROBE_KL * 4:
            break
        wanted = (PROBE_KL / found) ** 0.5 if found > 0 else 100.0
        distance *= min(max(wanted, 0.1), 100.0)
    return radius, curvature


def line_search(
    weights: Float[Tensor, "D"],
    step: Float[Tensor, "D"],
    measure: Measure,
    *,
    max_kl: float,
    tries: int,
    shrink: float,
) -> Search:
    """The longest of `step`, `shrink step`, `shrink^2 step`, ... at which the surrogate is better than at `weights` and
    the KL at most `max_kl`."""
    before, _ = measure(weights)
    for refused in range(tries):
        candidate = weights + step * shrink**refused
        surrogate, kl = measure(candidate)
        if surrogate > before and kl <= max_kl:
            return Search(candidate, True, refused, surrogate - before, kl)
    return Search(weights, False, tries)
