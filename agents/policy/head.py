"""The language-model head, applied only where a policy token is predicted, a few rows of logits at a time.

[tokens, vocabulary] is the largest array of a training step by far. Here it exists for one chunk: the forward keeps
nothing of it and the backward computes the chunk's logits again (one more product, about 7 % of an update at 135M).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agents.policy.sampling import Sampling, entropy_of

CHUNK_ROWS = 512


def score_tokens(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "R H"],
    target: Int[Tensor, "R"],
    sampling: Sampling,
    *,
    with_entropy: bool = False,
) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"] | None]:
    """Log-probability of each target under the distribution that is sampled from and, on request, that distribution's
    entropy (nats), both float32 and with gradient."""

    def score(h: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        z = sampling.logits(head(h), t)
        total = z.logsumexp(-1)
        logprob = z.gather(1, t[:, None])[:, 0] - total
        if not with_entropy:
            return (logprob,)
        centred = z - total[:, None]
        return logprob, entropy_of(centred.exp(), centred)

    chunks = []
    for h, t in zip(hidden.split(CHUNK_ROWS), target.split(CHUNK_ROWS), strict=True):
        chunks.append(checkpoint(score, h, t, use_reentrant=False) if torch.is_grad_enabled() else score(h, t))
    logprob, *entropy = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return logprob, entropy[0] if entropy else None
