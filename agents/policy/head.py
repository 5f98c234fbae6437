"""The language-model head, applied only where a policy token is predicted, a few rows of logits at a time.

[tokens, vocabulary] is the largest array of a training step by far. Here it exists for one chunk: the forward keeps one
number a row of it, and the backward computes the chunk's logits again (one more product, about 7 % of an update at
135M) and turns them into their gradient in closed form. The weights' gradient is added up over the chunks in float32:
rounded chunk by chunk in bfloat16, it would lose what is small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.policy import kernels
from agents.policy.sampling import Sampling, entropy_of

CHUNK_ROWS = 512
"""Of logits in float32."""

Head = Callable[[Tensor], Tensor]


def score_tokens(
    head: Head,
    hidden: Float[Tensor, "R H"],
    target: Int[Tensor, "R"],
    sampling: Sampling,
    *,
    weights: Sequence[Tensor] = (),
    with_entropy: bool = False,
) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"] | None]:
    """Log-probability of each target under the distribution that is sampled from and, on request, that distribution's
    entropy (nats), both float32 and with gradient in `hidden` and in those `weights` of the head that want one."""
    wanted = [weight for weight in weights if weight.requires_grad]
    logprob, entropy = TokenScores.apply(head, sampling, with_entropy, hidden, target, *wanted)
    return logprob, entropy if with_entropy else None


class TokenScores(torch.autograd.Function):
    """`score_tokens`; without `with_entropy` the entropies are an empty tensor."""

    @staticmethod
    def forward(
        ctx: Any, head: Head, sampling: Sampling, with_entropy: bool, hidden: Tensor, target: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies `[R]`."""
        logprob, total = torch.empty((2, len(target)), device=hidden.device)
        entropy = torch.empty(len(target) if with_entropy else 0, device=hidden.device)
        for part in chunks(hidden):
            raw = head(hidden[part])
            if by_kernels(raw, sampling, with_entropy):
                logprob[part], total[part] = kernels.score(raw, target[part], sampling.temperature)
                continue
            z = sampling.logits(raw, target[part])
            total[part] = z.logsumexp(-1)
            logprob[part] = z.gather(1, target[part, None])[:, 0] - total[part]
            if with_entropy:
                centred = z - total[part, None]
                entropy[part] = entropy_of(centred.exp(), centred)
        ctx.save_for_backward(hidden, target, total, entropy, *weights)
        ctx.head, ctx.sampling = head, sampling
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """D log p(t) = onehot(t) - p, and d H = -p (log p + H), in the logits."""
        hidden, target, total, entropy, *weights = ctx.saved_tensors
        by_logprob, by_entropy = gradients

        def change(z: Tensor, part: slice) -> Tensor:
            known = (target[part], total[part], by_logprob[part])
            if by_kernels(z, ctx.sampling, bool(len(entropy))):
                return kernels.score_backward(z, *known, ctx.sampling.temperature)
            more = (by_entropy[part], entropy[part]) if len(entropy) else None
            return logit_gradient(z, *known, ctx.sampling, more)

        by_hidden, by_weight = through_head(ctx.head, hidden, weights, change)
        return None, None, None, by_hidden, None, *by_weight


def through_head(
    head: Head,
    hidden: Float[Tensor, "R H"],
    weights: Sequence[Tensor],
    change: Callable[[Tensor, slice], Tensor],
) -> tuple[Float[Tensor, "R H"], list[Tensor]]:
    """The gradients of `hidden` and `weights`, where `change(logits, rows)` is that of the logits of some rows."""
    by_hidden = torch.empty_like(hidden)
    by_weight = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    for part in chunks(hidden):
        with torch.enable_grad():
            h = hidden[part].detach().requires_grad_()
            raw = head(h)
        found = torch.autograd.grad(raw, [h, *weights], change(raw.detach(), part))
        by_hidden[part] = found[0]
        for add, weight in zip(by_weight, found[1:], strict=True):
            add += weight
    return by_hidden, [add.to(weight.dtype) for add, weight in zip(by_weight, weights, strict=True)]


@torch.no_grad()
def logit_gradient(
    raw: Float[Tensor, "R V"],
    target: Int[Tensor, "R"],
    total: Float[Tensor, "R"],
    by_logprob: Float[Tensor, "R"],
    sampling: Sampling,
    by_entropy: tuple[Float[Tensor, "R"], Float[Tensor, "R"]] | None,
) -> Float[Tensor, "R V"]:
    """What changes of the log-probabilities, and of the entropies (their changes and values), mean for the logits."""
    centred = sampling.logits(raw, target) - total[:, None]
    mass = centred.exp()
    slope = by_logprob[:, None].expand_as(mass)
    if by_entropy is not None:
        change, entropy = by_entropy
        finite = centred.masked_fill_(mass == 0, 0.0)  # 0 times -inf would be NaN
        slope = slope + change[:, None] * (finite + entropy[:, None])
    out = mass.mul_(-slope).scatter_add_(1, target[:, None], by_logprob[:, None])
    if sampling.temperature not in (0, 1):
        out /= sampling.temperature
    return out.to(raw.dtype)


def by_kernels(raw: Tensor, sampling: Sampling, with_entropy: bool) -> bool:
    """Whether one pass over the logits by `kernels` serves."""
    return sampling.whole and not with_entropy and kernels.fit(raw)


def chunks(hidden: Float[Tensor, "R H"]) -> Iterator[slice]:
    """Consecutive parts of at most so many rows."""
    rows = chunk_rows(hidden.dtype)
    return (slice(start, min(start + rows, len(hidden))) for start in range(0, len(hidden), rows))


def chunk_rows(dtype: torch.dtype) -> int:
    """`CHUNK_ROWS`, twice as many where a logit has half the size."""
    return CHUNK_ROWS * 4 // dtype.itemsize
