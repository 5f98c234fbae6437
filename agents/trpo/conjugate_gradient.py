"""`A x = b` for a symmetric positive definite A that is only known by its products.

Source: Hestenes and Stiefel, 1952; arXiv 1502.05477 (TRPO), appendix C.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Float[Tensor, "D"], *, steps: int, tolerance: float
) -> tuple[Float[Tensor, "D"], float]:
    """x, and the length of `b - A x` as a share of b's; each of at most `steps` asks for one product.

    Ends early when that share is at most `tolerance`, and where a direction has no positive curvature: what is known by
    then is still a direction of ascent. `b = 0` gives 0.

    >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> x, residual = conjugate_gradient(lambda v: matrix @ v, torch.tensor([1.0, 2.0]), steps=2, tolerance=0.0)
    >>> [round(number, 4) for number in x.tolist()], residual < 1e-6
    ([0.0909, 0.6364], True)
    """
    x, left, direction = torch.zeros_like(b), b.clone(), b.clone()
    size = whole = float(b.dot(b))
    for _ in range(steps):
        if size <= tolerance**2 * whole:
            break
        product_of_it = product(direction)
        curvature = float(direction.dot(product_of_it))
        if not curvature > 0:
            break
        length = size / curvature
        x = x + length * direction
        left = left - length * product_of_it
        size, before = float(left.dot(left)), size
        direction = left + size / before * direction
    return x, (size / whole) ** 0.5 if whole else 0.0
