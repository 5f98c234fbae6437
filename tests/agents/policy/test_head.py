"""Scores of tokens a few rows at a time: equal to the whole array of logits, in value and gradient."""

import pytest
import torch
from torch import nn

from agents.policy import Sampling
from agents.policy.head import score_tokens

ROWS, SIZE, VOCABULARY = 11, 6, 13
SAMPLINGS = [Sampling(), Sampling(temperature=0.7), Sampling(temperature=1.3, top_k=5, top_p=0.9)]


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    monkeypatch.setattr("agents.policy.head.CHUNK_ROWS", 4)


def setting(dtype=torch.float32):
    torch.manual_seed(0)
    head = nn.Linear(SIZE, VOCABULARY).to(dtype)
    hidden = (2 * torch.randn(ROWS, SIZE)).to(dtype).requires_grad_()
    return head, hidden, torch.randint(VOCABULARY, (ROWS,))


def capped(head):
    """A head with a curve behind the matrix, as some families have."""
    return lambda hidden: 5 * torch.tanh(head(hidden) / 5)


def whole(head, hidden, target, sampling):
    """The same from one array of logits, by torch's own gradients."""
    logprob = sampling.logits(head(hidden), target).log_softmax(-1)
    kept = logprob.isfinite()
    entropy = -torch.where(kept, logprob.exp() * torch.where(kept, logprob, 0.0), 0.0).sum(-1)
    return logprob.gather(1, target[:, None])[:, 0], entropy


def loss_of(logprob, entropy):
    """Every row with a weight of its own."""
    weight = torch.linspace(-1, 2, ROWS)
    return (weight * logprob).sum() + (0 if entropy is None else (weight.flip(0) * entropy).sum())


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("shape", [lambda head: head, capped], ids=["linear", "capped"])
def test_values_and_gradients_are_those_of_the_whole_array(shape, sampling, with_entropy):
    head, hidden, target = setting()
    leaves = [hidden, *head.parameters()]
    logprob, entropy = whole(shape(head), hidden, target, sampling)
    expected = torch.autograd.grad(loss_of(logprob, entropy if with_entropy else None), leaves)
    scored = score_tokens(
        shape(head), hidden, target, sampling, weights=list(head.parameters()), with_entropy=with_entropy
    )
    torch.testing.assert_close(scored[0], logprob)
    if with_entropy:
        torch.testing.assert_close(scored[1], entropy)
    for found, by_torch in zip(torch.autograd.grad(loss_of(*scored), leaves), expected, strict=True):
        torch.testing.assert_close(found, by_torch, atol=1e-5, rtol=1e-4)


def test_a_frozen_head_passes_the_gradient_on_and_gets_none():
    head, hidden, target = setting()
    head.requires_grad_(False)
    score_tokens(head, hidden, target, Sampling(), weights=list(head.parameters()))[0].sum().backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_the_gradient_of_the_weights_is_added_up_in_float32(monkeypatch):
    """400 gradients of a half, one a chunk: in bfloat16 their sum would stop growing at 128."""
    monkeypatch.setattr("agents.policy.head.CHUNK_ROWS", 1)
    head = nn.Linear(1, 2, bias=False).bfloat16()
    nn.init.zeros_(head.weight)
    hidden, target = torch.ones(400, 1).bfloat16(), torch.zeros(400, dtype=torch.int64)
    logprob, _ = score_tokens(head, hidden, target, Sampling(), weights=[head.weight])
    logprob.sum().backward()
    assert head.weight.grad.tolist() == [[200.0], [-200.0]]  # 400 times (1 - 1/2)


def test_without_gradient_it_only_scores():
    head, hidden, target = setting()
    with torch.no_grad():
        logprob, entropy = score_tokens(head, hidden, target, Sampling())
    assert entropy is None
    torch.testing.assert_close(logprob, whole(head, hidden, target, Sampling())[0].detach())
