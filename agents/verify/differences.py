"""Every loss beside its finite differences: the slope that autograd gives and the one that the numbers have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def functions(x: Float[Tensor, "4 3"]) -> dict[str, Function]:
    """The losses by name, each a function of what carries the gradient. `x` is where they are looked at."""
    old, reference = numbers(1), numbers(2)
    token, row = numbers(3) + 1, (numbers(4) + 1)[:, 0]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    clip = {"clip_low": 0.2, "clip_high": 0.3}
    found: dict[str, Function] = {}
    for level in losses.RATIOS:
        advantage, options = (token if level == "token" else row), {"level": level, "mask": mask}
        cispo = held(lambda x, a=advantage, o=options: losses.weighted_logprob(x, old, a, **clip, **o), x)
        found |= {
            f"log_ratio level={level}": lambda x, o=options: losses.log_ratio(x, old, **o),
            f"clipped_surrogate level={level}": lambda x, a=advantage, o=options: losses.clipped_surrogate(
                x, old, a, **clip, **o
            ),
            f"clipped_surrogate level={level} ratio_cap=1.5": lambda x, a=advantage, o=options: (
                losses.clipped_surrogate(x, old, a, **clip, ratio_cap=1.5, **o)
            ),
            f"penalty_surrogate level={level}": lambda x, a=advantage, o=options: losses.penalty_surrogate(
                x, old, a, **o
            ),
            f"weighted_logprob level={level}": cispo,
        }
    for kind in ("squared", "huber"):
        for limit in (None, 0.5):
            found[f"value_loss kind={kind} clip={limit}"] = lambda x, k=kind, c=limit: losses.value_loss(
                x, reference, old_value=old, kind=k, clip=c, mask=mask
            )
    found["entropy_bonus"] = lambda x: losses.entropy_bonus(x, coefficient=0.5, mask=mask)
    for kind in kl.PLACES["loss"]:
        found[f"kl_penalty kind={kind}"] = lambda x, k=kind: kl.kl_penalty(
            x, reference, k, old_logprob=old, exact=x.exp(), mask=mask
        )
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
