"""Every loss beside its finite differences: the slope that autograd gives and the one that the numbers have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from agents import kl, losses

Function = Callable[[Tensor], Tensor]

ROWS, COLUMNS = 4, 3
STEP = 1e-6
TOLERANCE = 1e-7
"""Of central differences of that step in float64."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a loss's gradient is from its finite differences, at the worst token."""

    name: str
    error: float

    @property
    def kept(self) -> bool:
        return self.error <= TOLERANCE


def differences() -> list[Difference]:
    """One a loss and way to set it, at a point where every branch is taken by some token."""
    x = numbers(0)
    return [Difference(name, error(loss, x)) for name, loss in functions(x).items()]


def numbers(seed: int) -> Float[Tensor, "4 3"]:
    """Log-probabilities, differently for every seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64) - 1


def penalty(x: Tensor, *, kind: str, reference: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """The KL of a loss, with something that depends on `x` in the place of the exact one."""
    return kl.kl_penalty(x, reference, kind, old_logprob=old, exact=x.exp(), mask=mask)


def functions(x: Float[Tensor, "4 3"]) -> dict[str, Function]:
    """The losses by name, each a function of what carries the gradient. `x` is where they are looked at."""
    old, reference = numbers(1), numbers(2)
    token, row = numbers(3) + 1, (numbers(4) + 1)[:, 0]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    clip: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.3}
    found: dict[str, Function] = {}
    for level in losses.RATIOS:
        advantage = token if level == "token" else row
        options: dict[str, Any] = {"level": level, "mask": mask}
        both: dict[str, Any] = {"old_logprob": old, "advantage": advantage, **options}
        found |= {
            f"log_ratio level={level}": partial(losses.log_ratio, old_logprob=old, **options),
            f"clipped_surrogate level={level}": partial(losses.clipped_surrogate, **both, **clip),
            f"clipped_surrogate level={level} ratio_cap=1.5": partial(
                losses.clipped_surrogate, **both, **clip, ratio_cap=1.5
            ),
            f"penalty_surrogate level={level}": partial(losses.penalty_surrogate, **both),
            f"weighted_logprob level={level}": held(partial(losses.weighted_logprob, **both, **clip), x),
        }
    for kind in ("squared", "huber"):
        for limit in (None, 0.5):
            found[f"value_loss kind={kind} clip={limit}"] = partial(
                losses.value_loss, target=reference, old_value=old, kind=kind, clip=limit, mask=mask
            )
    found["entropy_bonus"] = lambda x: losses.entropy_bonus(x, coefficient=0.5, mask=mask)
    for kind in kl.PLACES["loss"]:
        found[f"kl_penalty kind={kind}"] = partial(penalty, kind=kind, reference=reference, old=old, mask=mask)
    found |= {
        "k1": lambda x: kl.k1(x, reference),
        "k2": lambda x: kl.k2(x, reference),
        "k3": lambda x: kl.k3(x, reference),
        "weighted_k3": lambda x: kl.weighted_k3(x, reference, old),
    }
    return found


def held(loss: Function, at: Tensor) -> Function:
    """CISPO's loss is a weight without gradient times the log-probability: autograd sees `loss`, finite differences see
    the weight as it was."""
    weight = loss(at) / at
    return lambda x: loss(x) if x.requires_grad else weight * x


def error(loss: Function, x: Tensor) -> float:
    """The largest difference between slope and finite difference, all tokens' influence on all losses told apart."""
    x = x.detach()
    each = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    leaf = x.clone().requires_grad_()
    values = loss(leaf).flatten()
    slope = torch.stack([torch.autograd.grad(value, leaf, retain_graph=True)[0].flatten() for value in values])
    numeric = torch.stack([(loss(x + STEP * d) - loss(x - STEP * d)).flatten() / (2 * STEP) for d in each], 1)
    return float((slope - numeric).abs().max())
