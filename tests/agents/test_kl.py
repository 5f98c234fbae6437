import math

import pytest
import torch

from agents.kl import (
    KINDS,
    FixedKL,
    HalvingKL,
    HorizonKL,
    k1,
    k2,
    k3,
    kl_penalty,
    placed_estimator,
    shaped_reward,
    weighted_k3,
)

NAN = math.nan
LOGITS = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
REFERENCE = torch.tensor([-0.6, 0.3, 0.0], dtype=torch.float64).log_softmax(0)
OLD = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64).log_softmax(0)
REVERSE = torch.tensor([0.167271, -0.198815, 0.031543], dtype=torch.float64)
FORWARD = torch.tensor([0.164283, -0.251204, 0.086921], dtype=torch.float64)


def gradient(objective):
    """The gradient of `objective(log-probabilities of the three arms)` in the logits."""
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(objective(logits.log_softmax(0)), logits)[0]


def expected_gradient(estimator, sampler=None):
    """The exact expectation of the estimator's gradient: every arm, with the probability it is drawn with."""
    return gradient(lambda p: ((p.detach() if sampler is None else sampler).exp() * estimator(p)).sum())


def close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def test_true_gradients_are_those_of_the_table():
    close(gradient(lambda p: (p.exp() * (p - REFERENCE)).sum()), REVERSE, atol=1e-6)
    close(gradient(lambda p: (REFERENCE.exp() * (REFERENCE - p)).sum()), FORWARD, atol=1e-6)


def test_expected_gradient_of_each_estimator_on_the_bandit():
    reverse = gradient(lambda p: (p.exp() * (p - REFERENCE)).sum())
    forward = gradient(lambda p: (REFERENCE.exp() * (REFERENCE - p)).sum())
    close(expected_gradient(lambda p: k1(p, REFERENCE)), torch.zeros(3).double())
    close(expected_gradient(lambda p: k2(p, REFERENCE)), reverse)
    close(expected_gradient(lambda p: k3(p, REFERENCE)), forward)
    close(expected_gradient(lambda p: weighted_k3(p, REFERENCE, p)), reverse)
    close(expected_gradient(lambda p: kl_penalty(p, REFERENCE)), reverse)
    close(expected_gradient(lambda p: kl_penalty(p, REFERENCE, "k2")), reverse)
    close(expected_gradient(lambda p: kl_penalty(p, REFERENCE, "k3")), forward)


def test_only_the_weighted_estimator_is_right_for_samples_of_an_older_policy():
    reverse = gradient(lambda p: (p.exp() * (p - REFERENCE)).sum())
    close(expected_gradient(lambda p: kl_penalty(p, REFERENCE, old_logprob=OLD), sampler=OLD), reverse)
    for kind in ("k2", "k3"):
        wrong = expected_gradient(lambda p, kind=kind: kl_penalty(p, REFERENCE, kind), sampler=OLD)
        assert (wrong - reverse).abs().max() > 0.01


def test_expected_values_on_the_bandit():
    p = LOGITS.log_softmax(0)
    kl = (p.exp() * (p - REFERENCE)).sum()
    for unbiased in (k1(p, REFERENCE), k3(p, REFERENCE), weighted_k3(p, REFERENCE, p)):
        close((p.exp() * unbiased).sum(), kl)
    close((OLD.exp() * weighted_k3(p, REFERENCE, OLD)).sum(), kl)
    assert ((p.exp() * k2(p, REFERENCE)).sum() - kl).abs() > 1e-3


def test_estimators_by_hand():
    # d = log 2: k1 log 2, k2 log(2)^2 / 2, k3 1/2 - 1 + log 2, and that times a ratio of 3
    logprob, reference, old = (torch.tensor([x]).double() for x in (math.log(2), 0.0, math.log(2 / 3)))
    assert k1(logprob, reference).item() == pytest.approx(math.log(2))
    assert k2(logprob, reference).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3(logprob, reference).item() == pytest.approx(math.log(2) - 0.5)
    assert weighted_k3(logprob, reference, old).item() == pytest.approx(3 * (math.log(2) - 0.5))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind):
    generator = torch.Generator().manual_seed(0)
    logprob, reference, old = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    logprob.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kl_penalty(x, reference, kind, old_logprob=old), logprob)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("itself", [True, False])
def test_rubbish_in_masked_slots_changes_neither_values_nor_gradients(kind, rubbish, itself):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(4, 5, generator=generator) < 0.5
    clean = torch.randn(3, 4, 5, generator=generator)
    results = []
    for x in (clean, torch.where(mask, clean, rubbish)):
        logprob, reference, old = x.clone().requires_grad_().unbind()
        loss = kl_penalty(logprob, reference, kind, old_logprob=None if itself else old, mask=mask)
        results.append((loss, *torch.autograd.grad(loss.sum(), logprob)))
    (value, slope), (dirty_value, dirty_slope) = results
    close(dirty_value, value, atol=0)
    close(dirty_slope, slope, atol=0)
    assert value[~mask].abs().max() == 0
    assert slope[~mask].abs().max() == 0


def test_extreme_differences_keep_values_and_gradients_finite():
    for kind in KINDS:
        logprob = torch.tensor([500.0, -500.0], requires_grad=True)
        loss = kl_penalty(logprob, torch.zeros(2), kind, old_logprob=torch.zeros(2))
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logprob.grad.isfinite().all()


def test_k1_in_the_loss_is_refused_with_the_reason():
    x = torch.zeros(1)
    with pytest.raises(ValueError, match=r"kind must not be k1 in a loss: .* expectation is zero"):
        kl_penalty(x, x, "k1")
    with pytest.raises(ValueError, match="kind must be one of k2, k3, weighted_k3, full, got 'kl'"):
        kl_penalty(x, x, "kl")


def test_worked_example_of_the_shaped_reward():
    # two tokens whose differences are .03 and .02: the row is paid .8 - 6 * .05 = .5
    reward, mask = torch.tensor([[0.0, 0.8, NAN]]), torch.tensor([[True, True, False]])
    kl = torch.tensor([[0.03, 0.02, NAN]])
    shaped = shaped_reward(reward, kl, mask, beta=6.0)
    torch.testing.assert_close(shaped, torch.tensor([[-0.18, 0.68, 0.0]]))
    assert shaped.sum().item() == pytest.approx(0.5)
    assert not shaped_reward(reward, kl.requires_grad_(), mask, beta=6.0).requires_grad


def test_the_exact_kl_stands_in_the_loss_as_it_is_and_not_where_it_is_masked_out():
    x, mask = torch.zeros(1, 2), torch.tensor([[True, False]])
    exact = torch.tensor([[0.25, NAN]], requires_grad=True)
    loss = kl_penalty(x, x, "full", exact=exact, mask=mask)
    loss.sum().backward()
    assert loss.tolist() == [[0.25, 0.0]]
    assert exact.grad.tolist() == [[1.0, 0.0]]
    with pytest.raises(ValueError, match="kind=full needs the exact KL"):
        kl_penalty(x, x, "full")


def test_each_place_has_its_estimators_and_says_why_not_another():
    chosen = [placed_estimator(place, None) for place in ("reward", "loss", "both")]
    assert chosen == ["k1", "weighted_k3", "full"]
    assert placed_estimator("loss", "full") == "full"
    for place, kind, reason in (
        ("loss", "k1", "gradient in a loss is zero in expectation"),
        ("reward", "k3", "nothing is differentiated in a reward"),
        ("reward", "full", "does not depend on the token that is chosen there"),
        ("both", "k1", "counted twice in the reward"),
        ("both", "k2", "loss and reward would both count it"),
    ):
        with pytest.raises(ValueError, match=rf"kl_estimator must not be {kind} with agent.kl_in={place}: .*{reason}"):
            placed_estimator(place, kind)
    with pytest.raises(ValueError, match="kl_in must be one of reward, loss, both, got 'nowhere'"):
        placed_estimator("nowhere", None)
    with pytest.raises(ValueError, match=r"kl_estimator must be one of k1, .* got 'k4'"):
        placed_estimator("loss", "k4")


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_in_a_reward_only_k1_leaves_the_reverse_gradient(kind):
    """The score-function gradient E[kl grad log p] of what is paid, summed over the arms: `PLACES` is no taste."""
    p = LOGITS.clone().requires_grad_()
    truth = torch.autograd.grad((p.log_softmax(-1).exp() * (p.log_softmax(-1) - REFERENCE)).sum(), p)[0]

    def paid(estimator):
        logprob = p.log_softmax(-1)
        return torch.autograd.grad(
            (logprob.detach().exp() * estimator(logprob, REFERENCE).detach() * logprob).sum(), p
        )[0]

    close(paid(k1), truth)
    assert (paid({"k2": k2, "k3": k3}[kind]) - truth).abs().max() > 1e-3


def test_horizon_controller_moves_beta_in_proportion_and_within_bounds():
    start = HorizonKL(beta=0.1, target=6.0, horizon=1000)
    # error .1 (6.6 / 6 - 1), 100 rows of 1000: factor 1.01
    assert start.update(6.6, 100).beta == pytest.approx(0.101)
    assert start.update(600.0, 100).beta == pytest.approx(0.1 * 1.02)
    assert start.update(-1.0, 100).beta == pytest.approx(0.1 * 0.98)
    assert start.beta == 0.1
    with pytest.raises(ValueError, match="horizon must be more than a fifth of the 5000 rows"):
        start.update(1.0, 5000)


def test_halving_controller_is_the_papers_law():
    start = HalvingKL(beta=1.0, target=0.03)
    assert [start.update(kl, 1).beta for kl in (0.0199, 0.0201, 0.03, 0.0449, 0.0451)] == [0.5, 1, 1, 1, 2]
    assert FixedKL(0.5).update(9.0, 1).beta == 0.5


def test_controllers_refuse_what_cannot_be():
    for make in (HorizonKL, HalvingKL):
        with pytest.raises(ValueError, match="beta must be positive to adapt"):
            make(beta=0.0, target=1.0)
        with pytest.raises(ValueError, match="target must be positive, got 0"):
            make(beta=1.0, target=0.0)
        with pytest.raises(ValueError, match="kl must be finite, got nan"):
            make(beta=1.0, target=1.0).update(NAN, 1)
    with pytest.raises(ValueError, match="horizon must be positive"):
        HorizonKL(beta=1.0, target=1.0, horizon=0)
    with pytest.raises(ValueError, match="beta must be at least 0, got -1"):
        FixedKL(-1.0)
