"""The exact KL over the vocabulary: equal to torch's on whole arrays, in value and gradient, and in the policy."""

import math

import pytest
import torch
from small import ACTIONS, hugging_face_model, make_rollout, small_policy
from torch import nn

from agents.policy import Sampling
from agents.policy.vocabulary_kl import vocabulary_kl

ROWS, SIZE, VOCABULARY = 11, 6, 13


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    monkeypatch.setattr("agents.policy.head.CHUNK_ROWS", 4)


def test_three_tokens_by_hand():
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): KL = 1/2 log 2 - 1/4 log 2 = log(2) / 4; its slope in the first logit
    is p (log p/q - KL) = 1/2 (log 2 - log(2) / 4) = 3/8 log 2."""
    hidden = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).requires_grad_()
    kl = vocabulary_kl(nn.Identity(), hidden, nn.Identity(), torch.log(torch.tensor([[0.25, 0.25, 0.5]])), Sampling())
    kl.sum().backward()
    assert kl.item() == pytest.approx(math.log(2) / 4)
    assert hidden.grad[0, 0].item() == pytest.approx(3 / 8 * math.log(2))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_the_whole_array(temperature):
    torch.manual_seed(0)
    head, other_head = nn.Linear(SIZE, VOCABULARY), nn.Linear(SIZE, VOCABULARY).requires_grad_(False)
    hidden, other = torch.randn(ROWS, SIZE, requires_grad=True), torch.randn(ROWS, SIZE)
    weight = torch.linspace(-1, 2, ROWS)
    p, q = ((h(x) / temperature).log_softmax(-1) for h, x in ((head, hidden), (other_head, other)))
    expected = nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    by_torch = torch.autograd.grad((weight * expected).sum(), [hidden, *head.parameters()])
    kl = vocabulary_kl(head, hidden, other_head, other, Sampling(temperature), weights=list(head.parameters()))
    torch.testing.assert_close(kl, expected)
    for found, right in zip(
        torch.autograd.grad((weight * kl).sum(), [hidden, *head.parameters()]), by_torch, strict=True
    ):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(top_k=3), Sampling(top_p=0.9)], ids=str)
def test_it_is_refused_where_tokens_are_excluded(sampling):
    with pytest.raises(ValueError, match=r"policy\.top_k must be 0 and policy\.top_p 1"):
        vocabulary_kl(nn.Identity(), torch.zeros(1, 4), nn.Identity(), torch.zeros(1, 4), sampling)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_policy_s_kl_is_that_of_the_two_models_in_the_states_of_the_tokens(family):
    """Packed and padded models; the prompt is shared by two rows, the second token of the first row is injected."""
    policy, reference = small_policy(family), small_policy(family, seed=1)
    rollout = make_rollout([[3, 4, 5], [3, 4, 5], [6, 2]], [[8, 9, 10], [11], [12, 13]])
    rollout.mask[0, 1] = False
    models = [hugging_face_model(family, seed=seed) for seed in (0, 1)]
    scores = policy.evaluate(rollout, kl_to=reference)
    expected = torch.zeros_like(rollout.sampled_logprob)
    for row in range(3):
        tokens = rollout.tokens[row : row + 1, : int(rollout.length[row])]
        p, q = (model(input_ids=tokens).logits[0, :, :ACTIONS].log_softmax(-1) for model in models)
        kl = (p.exp() * (p - q)).sum(-1)
        for a in range(rollout.mask.shape[1]):
            if rollout.mask[row, a]:
                expected[row, a] = kl[int(rollout.prompt_length[row]) + a - 1]
    torch.testing.assert_close(scores.kl, expected, atol=1e-4, rtol=1e-4)
    scores.kl.sum().backward()
    assert policy.model.weight.grad.abs().sum() > 0
    assert reference.model.weight.grad is None


def test_the_score_without_gradient_has_it_in_the_order_of_the_rows():
    policy, reference = small_policy(), small_policy(seed=1)
    rollout = make_rollout([[3, 4], [5, 6, 7], [8]], [[8, 9, 10], [11], [12, 13]])
    whole = policy.evaluate(rollout, kl_to=reference).kl
    split = policy.score(rollout, microbatch_tokens=4, kl_to=reference).kl
    torch.testing.assert_close(split, whole.detach(), atol=1e-5, rtol=1e-5)
    assert policy.score(rollout, microbatch_tokens=4).kl is None
