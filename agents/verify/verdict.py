"""A cell's promise beside what is: bias, variance, cosine, and whether it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from agents.verify.cells import Cell
from agents.verify.estimate import estimate, estimate_k1, in_float64
from agents.verify.exact import gradient, mixture
from agents.verify.promises import promise, truth

TOLERANCE = 1e-10
"""Relative: what float64 leaves of an equality after some thousand sums."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the table. Gradients point uphill, in the policy's logits."""

    section: str
    name: str
    kind: str
    """`exact` (the true gradient), `other` (exactly that of `target`), `biased` (for `reasons`) or `refused`."""
    kept: bool
    """Whether what was promised holds."""
    reasons: tuple[str, ...] = ()
    target: str = ""
    scale: float | None = None
    """The multiple of the true gradient that comes closest."""
    bias: float | None = None
    """What that multiple leaves, relative to it: no learning rate repairs it."""
    variance: float | None = None
    """Of one batch's gradient, in units of the squared length of the expected one."""
    cosine: float | None = None
    own_cosine: float | None = None
    """To the gradient of `target`."""
    gradient: tuple[float, ...] = ()
    true_gradient: tuple[float, ...] = ()


def judge(cell: Cell) -> Verdict:
    """Sum what the cell's agent does and compare it with the truth and with what is promised."""
    try:
        cell.config()
    except ValueError as refusal:
        return refused(cell, str(refusal))
    with in_float64():
        promised, found = promise(cell), estimate(cell)
        true, own = mixture(cell.scene, truth(cell)), mixture(cell.scene, promised.parts)
    scale, bias = projected(found.mean, true)
    if promised.reasons:
        kind, kept = "biased", True
    else:
        kept = float((found.mean - own).norm()) <= TOLERANCE * float(own.norm())
        kind = "exact" if projected(own, true)[1] <= TOLERANCE else "other"
    length = float(found.mean.square().sum())
    return Verdict(
        section=cell.section,
        name=cell.name,
        kind=kind,
        kept=kept,
        reasons=promised.reasons,
        target=words(promised.parts) if kind == "other" else "",
        scale=scale,
        bias=bias,
        variance=found.variance / length if length > 1e-20 else None,
        cosine=cosine(found.mean, true),
        own_cosine=cosine(found.mean, own) if kind == "other" else None,
        gradient=tuple(found.mean.tolist()),
        true_gradient=tuple(true.tolist()),
    )


def refused(cell: Cell, reason: str) -> Verdict:
    """A row for what the project will not do; of k1 in the loss, what it would have done: nothing but noise."""
    if (cell.settings.get("kl_estimator"), cell.settings.get("kl_in", "loss")) != ("k1", "loss"):
        return Verdict(cell.section, cell.name, "refused", kept=True, reasons=(reason,))
    found = estimate_k1(cell.scene)
    return Verdict(
        section=cell.section,
        name=cell.name,
        kind="refused",
        kept=float(found.mean.norm()) <= TOLERANCE,
        reasons=(reason,),
        scale=0.0,
        gradient=tuple(found.mean.tolist()),
        true_gradient=tuple((-gradient(cell.scene, "kl")).tolist()),
    )


def projected(x: Float[Tensor, "D"], onto: Float[Tensor, "D"]) -> tuple[float, float]:
    """The multiple of `onto` that is closest to `x`, and what remains, relative to it."""
    scale = float(x @ onto / (onto @ onto))
    closest = scale * onto
    length = float(closest.norm())
    return scale, float((x - closest).norm()) / length if length > 1e-12 else float("inf")


def cosine(a: Float[Tensor, "D"], b: Float[Tensor, "D"]) -> float | None:
    """None where one is 0."""
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 1e-12 else None


NAMES = {
    "reward": "E[R]",
    "reward_and_beyond": "E[R + beyond]",
    "reward_of_ended": "E[R - mean; ended]",
    "cut": "P(cut)",
    "kl": "KL",
    "stepwise_kl": "stepwise KL",
    "stepwise_forward_kl": "stepwise forward KL",
    "stepwise_entropy": "stepwise entropy",
}


def words(parts: dict[str, float]) -> str:
    """An objective to read.

    >>> words({"reward": 1.0, "stepwise_kl": -0.5})
    'E[R] - 0.5 stepwise KL'
    """
    text = ""
    for name, weight in parts.items():
        sign = ("-" if weight < 0 else "") if not text else (" - " if weight < 0 else " + ")
        size = f"{abs(weight):.3g} " if abs(weight) != 1 else ""
        text += f"{sign}{size}{NAMES[name]}"
    return text
