"""Advantages and what is told about them: tensors in, tensors out, over valid entries only.

Entries that are masked out may hold anything, NaN included; they change nothing and come back as 0.
Nothing here carries a gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SCALES = ("group", "batch", "none")
BASELINES = ("group", "leave_one_out", "batch", "none")


@torch.no_grad()
def group_advantages(
    returns: Float[Tensor, "N"],
    problem: Int[Tensor, "N"],
    *,
    baseline: str = "group",
    scale: str = "group",
    valid: Bool[Tensor, "N"] | None = None,
) -> Float[Tensor, "N"]:
    """Each return relative to the others of its problem: `(R - baseline) / std`.

    `baseline` is that of `baselines`. `scale`: divide by the population std of the group, of all valid rows of the
    batch, or not at all. Rows may come in any order and groups in any size. Rows that are not `valid` get 0 and take no
    part in mean and std. With a baseline of the group, a group whose valid returns are all equal (one valid row
    included) gets exactly 0: equality is tested on the returns, because the std of three times 0.1 is not 0 in floating
    point. For the same reason returns that differ by a rounding error count as different; rewards that are meant to be
    equal must be equal. Raises `ValueError` for an unknown `scale` or `baseline`, for the group's scale with a baseline
    that is not the group's (a group without variance has deviations then, and no scale for them) and for a valid return
    that is NaN or infinite.

    Source: arXiv 2402.03300 (DeepSeekMath), section 4.1.2; scale `none` is arXiv 2503.20783 (Dr. GRPO), `batch` is
    arXiv 2508.08221. The peers use the sample std and add 1e-4 or 1e-6 to it. The epsilon only protects groups
    without variance, which are exactly 0 here, and it shrinks the groups whose rewards lie close together, so
    that rescaling a reward would change the gradient. Here it does not. The arithmetic is in float64.

    >>> group_advantages(torch.tensor([1.0, 0.8, 0.4, 0.2]), torch.zeros(4, dtype=torch.int64))
    tensor([ 1.2649,  0.6325, -0.6325, -1.2649])
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if scale == "group" and baseline in ("batch", "none"):
        raise ValueError(f"scale=group needs a baseline of the group (group or leave_one_out), got {baseline}")
    valid = torch.ones_like(returns, dtype=torch.bool) if valid is None else valid
    x = torch.where(valid, returns, 0.0).double()
    deviation = torch.where(valid, x - baselines(returns.double(), problem, baseline, valid=valid), 0.0)
    if scale == "none":
        return deviation.to(returns.dtype)
    group = _group(problem) if scale == "group" else torch.zeros_like(problem)
    around_mean = torch.where(valid & _differs(x, group, valid), x - _mean(x, group, valid), 0.0)
    return _over_std(deviation, around_mean, group, valid).to(returns.dtype)


@torch.no_grad()
def baselines(
    returns: Float[Tensor, "N"],
    problem: Int[Tensor, "N"],
    kind: str = "group",
    *,
    valid: Bool[Tensor, "N"] | None = None,
) -> Float[Tensor, "N"]:
    """What each return is compared with, over valid rows; rows that are not `valid` get 0.

    - `group`: the mean of its problem's returns, its own among them (GRPO, arXiv 2402.03300). The gradient that this
      leaves is (n - 1) / n of the one without a baseline, in expectation, in a group of n.
    - `leave_one_out`: the mean of the *others* (RLOO, arXiv 2402.14740): no bias at all. What remains is
      n / (n - 1) times what the group's mean leaves.
    - `batch`: the mean of all returns, its own among them;
    - `none`: 0.

    Where a group's (for `batch`, the batch's) returns are all equal the baseline is the return itself, exactly; so it
    is in a group of one, which therefore teaches nothing with the first two. Raises `ValueError` for another kind and
    for a valid return that is NaN or infinite.

    >>> baselines(torch.tensor([1.0, 0.0, 0.5]), torch.zeros(3, dtype=torch.int64), "leave_one_out")
    tensor([0.2500, 0.7500, 0.5000])
    """
    if kind not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {kind!r}")
    valid = torch.ones_like(returns, dtype=torch.bool) if valid is None else valid
    if not torch.where(valid, returns, 0.0).isfinite().all():
        raise ValueError("the return of a valid row must be finite, got NaN or infinity")
    x = torch.where(valid, returns, 0.0).double()
    if kind == "none":
        return torch.zeros_like(returns)
    group = torch.zeros_like(problem) if kind == "batch" else _group(problem)
    mean = _mean(x, group, valid)
    if kind == "leave_one_out":
        num_rows = _count(group, valid)
        mean = (num_rows * mean - x) / (num_rows - 1).clamp(min=1)
    return torch.where(valid, torch.where(_differs(x, group, valid), mean, x), 0.0).to(returns.dtype)


@torch.no_grad()
def decoupled_advantages(
    parts: Float[Tensor, "N K"],
    weight: Float[Tensor, "N K"],
    problem: Int[Tensor, "N"],
    *,
    valid: Bool[Tensor, "N"] | None = None,
) -> Float[Tensor, "N"]:
    """Advantages of a reward of several parts, each of which counts by its weight, whatever the size of its numbers.

    Each part is standardized in its group, their weighted sum is divided by its root mean square over the valid rows of
    the batch. (Its mean there is 0 already, as it is in every group.) A part without variance in a group adds exactly
    0 to it. With one part this is `group_advantages` up to that last division.

    Source: arXiv 2601.05242 (GDPO); a peer's `normalize_then_sum`. Std and rows as in `group_advantages`.
    """
    valid = torch.ones_like(problem, dtype=torch.bool) if valid is None else valid
    total = torch.zeros(len(problem), dtype=torch.float64, device=parts.device)
    for part, its_weight in zip(parts.unbind(1), weight.unbind(1), strict=True):
        standard = group_advantages(part.double(), problem, valid=valid)
        total = total + torch.where(valid & (standard != 0), its_weight * standard, 0.0)
    return _over_std(total, total, torch.zeros_like(problem), valid).to(parts.dtype)


@torch.no_grad()
def returns_to_go(reward: Float[Tensor, "N A"], mask: Bool[Tensor, "N A"]) -> Float[Tensor, "N A"]:
    """The sum of the rewards from each policy token on, without discount: what the token can still change.

    It is `gae` with a critic that knows nothing. 0 outside `mask`. Source: the policy gradient theorem; with a reward
    that pays the KL per token, arXiv 2501.03262 (REINFORCE++).

    >>> returns_to_go(torch.tensor([[1.0, 0.0, 2.0]]), torch.ones(1, 3).bool())
    tensor([[3., 2., 2.]])
    """
    return gae(reward, torch.zeros_like(reward), mask, gamma=1.0, lam=1.0)


@torch.no_grad()
def has_variance(
    returns: Float[Tensor, "N"], problem: Int[Tensor, "N"], valid: Bool[Tensor, "N"] | None = None
) -> Bool[Tensor, "N"]:
    """Whether the valid returns of each row's problem differ at all; the same for all rows of a problem."""
    valid = torch.ones_like(returns, dtype=torch.bool) if valid is None else valid
    return _differs(returns, _group(problem), valid)


@torch.no_grad()
def zero_variance_share(
    returns: Float[Tensor, "N"], problem: Int[Tensor, "N"], valid: Bool[Tensor, "N"] | None = None
) -> Float[Tensor, ""]:
    """The share of groups whose valid returns are all equal, and which therefore teach nothing.

    A group with one valid row counts as such, a group without valid rows is left out; 0 when there is no group.
    """
    valid = torch.ones_like(returns, dtype=torch.bool) if valid is None else valid
    num_groups = problem[valid].unique().numel()
    num_varied = problem[valid & has_variance(returns, problem, valid)].unique().numel()
    return torch.tensor(1 - num_varied / num_groups if num_groups else 0.0, device=returns.device)


@torch.no_grad()
def gae(
    reward: Float[Tensor, "N A"],
    value: Float[Tensor, "N A"],
    mask: Bool[Tensor, "N A"],
    *,
    gamma: float,
    lam: float,
    final_value: Float[Tensor, "N"] | None = None,
) -> Float[Tensor, "N A"]:
    """Generalized advantage estimates, over the policy's tokens as if nothing stood between them.

    With t running over a row's policy tokens: `delta_t = r_t + gamma V_{t+1} - V_t`,
    `A_t = delta_t + gamma lam A_{t+1}`. Tokens outside `mask`, also in the middle of a row (a tool's answer),
    neither decay nor interrupt the credit, and what is paid on them is not read. `final_value` is V after the last
    policy token: 0 (the default) where the episode terminated, the critic's estimate where it was cut off. A row
    without policy tokens is all 0. Value targets are `A + V`. Raises `ValueError` for `gamma` or `lam` outside [0, 1].

    Source: arXiv 1506.02438, equation 16. Peers put 0 after the last token even where the episode was cut off.

    >>> gae(torch.tensor([[0.0, 0.5]]), torch.tensor([[0.25, 0.3]]), torch.ones(1, 2).bool(), gamma=0.99, lam=0.95)
    tensor([[0.2351, 0.2000]])
    """
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {number}")
    next_value = torch.zeros_like(value[:, 0] if value.shape[1] else value.sum(1))
    if final_value is not None:
        next_value = final_value.to(value.dtype)
    credit = torch.zeros_like(next_value)
    columns: list[Tensor] = []
    for r, v, here in zip(*(reversed(x.unbind(1)) for x in (reward, value, mask)), strict=True):
        credit = torch.where(here, r + gamma * next_value - v + gamma * lam * credit, credit)
        next_value = torch.where(here, v, next_value)
        columns.append(torch.where(here, credit, 0.0))
    return torch.stack(columns[::-1], 1) if columns else torch.zeros_like(value)


@torch.no_grad()
def whiten(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, shift_mean: bool = True, epsilon: float = 1e-8
) -> Float[Tensor, "*shape"]:
    """`(x - mean) / sqrt(variance + epsilon)` over the entries in `mask`; 0 elsewhere.

    Population variance, so that one entry is as safe as a thousand: it becomes 0 (or stays, without `shift_mean`),
    as do entries that are all equal. Without `shift_mean` the mean is added back (for rewards, whose sign
    matters). No entry at all gives zeros. Here, unlike in `group_advantages`, the usual `epsilon` stays: what is
    left of a critic's errors when everything is solved is noise, and must not be blown up to size 1.

    Source: arXiv 1707.06347 in the form of the OpenAI baselines; the peers use the sample variance.
    """
    clean = torch.where(mask, x, 0.0).double()
    count = mask.sum().clamp(min=1)
    mean = clean.sum() / count
    deviation = torch.where(mask, clean - mean, 0.0)
    scaled = deviation * (deviation.square().sum() / count + epsilon).rsqrt()
    return torch.where(mask, scaled if shift_mean else scaled + mean, 0.0).to(x.dtype)


@torch.no_grad()
def explained_variance(
    value: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """`1 - Var(target - value) / Var(target)` over the entries in `mask`.

    1 is a perfect critic, 0 one that knows the mean, negative one that is worse than that. NaN where it is
    undefined, that is where the targets are all equal or there are none.
    """
    y, error = target[mask].double(), (target[mask] - value[mask]).double()
    if y.numel() == 0 or y.min() == y.max():
        return torch.tensor(torch.nan, device=value.device)
    return (1 - error.var(correction=0) / y.var(correction=0)).float()


def _group(problem: Tensor) -> Tensor:
    """Problems numbered from 0, one a row."""
    return torch.unique(problem, return_inverse=True)[1]


def _count(group: Tensor, valid: Tensor) -> Tensor:
    """The number of valid rows in each row's group, one a row."""
    zeros = torch.zeros(len(group), dtype=torch.float64, device=group.device)
    return zeros.index_add(0, group, valid.double())[group]


def _mean(x: Tensor, group: Tensor, valid: Tensor) -> Tensor:
    """The mean of each row's group over its valid rows, one a row."""
    total = x.new_zeros(len(x)).index_add(0, group, torch.where(valid, x, 0.0))[group]
    return total / _count(group, valid).clamp(min=1)


def _differs(x: Tensor, group: Tensor, valid: Tensor) -> Tensor:
    """Whether the valid numbers of each row's group differ at all, one a row."""
    low = torch.full_like(x, torch.inf).scatter_reduce(0, group, torch.where(valid, x, torch.inf), "amin")
    high = torch.full_like(x, -torch.inf).scatter_reduce(0, group, torch.where(valid, x, -torch.inf), "amax")
    return (low < high)[group]


def _over_std(x: Tensor, deviation: Tensor, group: Tensor, valid: Tensor) -> Tensor:
    """`x` over the root mean square of the group's deviations; 0 where they are all 0.

    The deviations are first divided by the largest, because squares of tiny ones would underflow to a std of 0.
    """
    largest = torch.zeros_like(x).scatter_reduce(0, group, deviation.abs(), "amax")[group]
    unit = torch.where(largest > 0, largest, 1.0)
    std = _mean((deviation / unit).square(), group, valid).sqrt()
    return torch.where(largest > 0, x / unit / torch.where(std > 0, std, 1.0), 0.0)
