"""The exact KL of two policies at a state: over the whole vocabulary, where an estimate looks at one token.

Like the scores of tokens (`head.py`) it is computed a few rows of logits at a time, twice of them: the policy's and the
reference's. The backward pass makes both again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from agents.policy.head import Head, chunks, through_head
from agents.policy.sampling import Sampling


def vocabulary_kl(
    head: Head,
    hidden: Float[Tensor, "R H"],
    reference_head: Head,
    reference_hidden: Float[Tensor, "R H"],
    sampling: Sampling,
    *,
    weights: Sequence[Tensor] = (),
) -> Float[Tensor, "R"]:
    """KL(policy || reference) in nats, float32, of the distributions that are sampled from; with gradient in `hidden`
    and in those `weights` of the policy's head that want one, none in the reference.

    Raises `ValueError` under top-k and top-p, where the two have different tokens and the KL is infinite.
    """
    if not sampling.whole:
        raise ValueError(
            "the exact KL needs every token to have a probability: policy.top_k must be 0 and policy.top_p 1, got "
            f"{sampling.top_k} and {sampling.top_p}"
        )
    wanted = [weight for weight in weights if weight.requires_grad]
    return VocabularyKL.apply(head, reference_head, sampling, hidden, reference_hidden, *wanted)


class VocabularyKL(torch.autograd.Function):
    """`vocabulary_kl`."""

    @staticmethod
    def forward(
        ctx: Any,
        head: Head,
        reference_head: Head,
        sampling: Sampling,
        hidden: Tensor,
        reference_hidden: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """One number a row."""
        kl = torch.empty(len(hidden), device=hidden.device)
        for part in chunks(hidden):
            logprob = sampling.logits(head(hidden[part])).log_softmax(-1)
            other = sampling.logits(reference_head(reference_hidden[part])).log_softmax(-1)
            kl[part] = (logprob.exp() * (logprob - other)).sum(-1)
        ctx.save_for_backward(hidden, reference_hidden, kl, *weights)
        ctx.head, ctx.reference_head, ctx.sampling = head, reference_head, sampling
        return kl

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """D KL = p (log p - log q - KL), in the logits."""
        hidden, reference_hidden, kl, *weights = ctx.saved_tensors
        sampling = ctx.sampling

        def change(raw: Tensor, part: slice) -> Tensor:
            logprob = sampling.logits(raw).log_softmax(-1)
            other = sampling.logits(ctx.reference_head(reference_hidden[part])).log_softmax(-1)
            slope = logprob.exp() * (logprob - other - kl[part, None]) * gradients[0][part, None]
            return (slope / sampling.temperature).to(raw.dtype)

        by_hidden, by_weight = through_head(ctx.head, hidden, weights, change)
        return None, None, None, by_hidden, None, *by_weight
