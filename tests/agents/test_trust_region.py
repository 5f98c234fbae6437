"""The natural step and its line search on problems small enough to be solved another way."""

import math

import pytest
import torch

from agents.trpo.conjugate_gradient import conjugate_gradient
from agents.trpo.trust_region import PROBE_KL, fisher_product, line_search, natural_step, probe

GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(4, 3, dtype=torch.float64, generator=GENERATOR)
"""Of four actions; a policy is `softmax(FEATURES @ weights)`."""
OLD = torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64)
WORTH = torch.tensor([1.0, -0.5, 0.3, 0.0], dtype=torch.float64)


def policy(weights):
    return (FEATURES @ weights).log_softmax(0)


def kl_tensor(weights):
    return (policy(OLD).exp() * (policy(OLD) - policy(weights))).sum()


def kl(weights):
    return float(kl_tensor(weights))


def kl_gradient(weights):
    at = weights.clone().requires_grad_()
    return torch.autograd.grad(kl_tensor(at), at)[0]


def fisher():
    """The expected outer product of the scores, over all actions."""
    scores = torch.autograd.functional.jacobian(policy, OLD)
    return scores.T @ torch.diag(policy(OLD).exp()) @ scores


def ascent():
    at = OLD.clone().requires_grad_()
    return torch.autograd.grad((policy(at).exp() * WORTH).sum(), at)[0]


@pytest.mark.parametrize("size", [1, 5, 20])
def test_conjugate_gradient_solves_what_linear_algebra_solves(size):
    root = torch.randn(size, size, dtype=torch.float64, generator=GENERATOR)
    matrix = root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64)
    b = torch.randn(size, dtype=torch.float64, generator=GENERATOR)
    x, residual = conjugate_gradient(lambda v: matrix @ v, b, steps=3 * size, tolerance=1e-12)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-10)
    assert residual == pytest.approx(float((b - matrix @ x).norm() / b.norm()), abs=1e-9)


def test_conjugate_gradient_asks_for_no_more_products_than_it_needs():
    asked = []
    x, residual = conjugate_gradient(lambda v: asked.append(v) or 2 * v, torch.ones(3), steps=9, tolerance=1e-3)
    assert len(asked) == 1
    assert (x.tolist(), residual) == ([0.5, 0.5, 0.5], 0.0)


def test_conjugate_gradient_reports_what_it_could_not_explain():
    """One step for diag(1, 3) and (1, 1): length 2 / 4, left (1, 1) - 0.5 (1, 3) = (0.5, -0.5), half as long."""
    x, residual = conjugate_gradient(lambda v: torch.tensor([1.0, 3.0]) * v, torch.ones(2), steps=1, tolerance=0.0)
    assert (x.tolist(), residual) == ([0.5, 0.5], pytest.approx(0.5))


def test_conjugate_gradient_without_a_gradient_or_a_curvature_stays_where_it_is():
    assert conjugate_gradient(lambda v: v, torch.zeros(2), steps=3, tolerance=0.0)[0].tolist() == [0, 0]
    assert conjugate_gradient(lambda v: -v, torch.ones(2), steps=3, tolerance=0.0) == (pytest.approx([0, 0]), 1.0)


@pytest.mark.parametrize("direction", range(3))
def test_a_product_with_the_fisher_matrix_is_that_of_all_actions_summed(direction):
    vector = torch.eye(3, dtype=torch.float64)[direction] * 7
    found = fisher_product(kl_gradient, OLD, vector, radius=1e-3)
    torch.testing.assert_close(found, fisher() @ vector, rtol=1e-5, atol=1e-6)


def test_a_product_with_nothing_is_nothing():
    assert fisher_product(kl_gradient, OLD, torch.zeros(3), radius=1e-3).tolist() == [0, 0, 0]


def test_the_probe_finds_a_distance_of_a_small_kl_and_the_curvature_there():
    unit = ascent() / ascent().norm()
    radius, curvature = probe(kl, OLD, ascent())
    assert PROBE_KL / 4 <= kl(OLD + radius * unit) <= PROBE_KL * 4
    assert curvature == pytest.approx(float(unit @ fisher() @ unit), rel=0.02)


def test_the_probe_comes_back_from_where_nothing_is_a_number():
    """The KL is the square of the distance d, so d'Fd = 2 for a d of 1."""
    far = torch.tensor([1e4, 0.0], dtype=torch.float64)

    def cliff(weights):
        distance = float((weights - far).norm())
        return distance**2 if distance < 0.02 else math.inf

    radius, curvature = probe(cliff, far, torch.ones(2, dtype=torch.float64))
    assert radius == pytest.approx(0.01)
    assert curvature == pytest.approx(2.0)


@pytest.mark.parametrize(("function", "direction"), [(kl, 0 * OLD), (lambda weights: 0.0, OLD)])
def test_there_is_no_step_without_a_gradient_or_where_the_policy_does_not_change(function, direction):
    options = {"max_kl": 0.01, "damping": 0.0, "steps": 3, "tolerance": 0.0}
    assert natural_step(OLD, direction, kl=function, kl_gradient=kl_gradient, **options) == (None, 0.0)


def step_of(max_kl, damping=0.0):
    return natural_step(
        OLD,
        ascent(),
        kl=kl,
        kl_gradient=kl_gradient,
        max_kl=max_kl,
        damping=damping,
        steps=10,
        tolerance=1e-9,
    )[0]


def test_the_step_is_the_natural_gradient_scaled_to_the_bound():
    natural = torch.linalg.solve(fisher(), ascent())
    expected = natural * (2 * 0.01 / (natural @ fisher() @ natural)).sqrt()
    torch.testing.assert_close(step_of(0.01), expected, rtol=2e-3, atol=1e-5)


def test_the_kl_of_the_step_is_the_bound_to_the_first_order():
    """What is missing shrinks with the step: the KL's third-order term, that is the bound's square root."""
    error = [abs(kl(OLD + step_of(bound)) / bound - 1) for bound in (1e-2, 1e-4, 1e-6)]
    assert error[0] < 0.2
    assert error[1] < error[0] / 3
    assert error[2] < 2e-3


def test_a_large_damping_leaves_the_plain_gradient():
    step = step_of(0.01, damping=1e6)
    assert float(torch.cosine_similarity(step, ascent(), dim=0)) == pytest.approx(1, abs=1e-6)
    assert kl(OLD + step) == pytest.approx(0.01, rel=0.2)


def test_the_search_takes_the_longest_step_within_the_bound():
    """The KL of a step s is s^2: 1 and 0.25 are above 0.1, 0.0625 is not."""
    found = line_search(
        torch.zeros(1), torch.ones(1), lambda w: (float(w), float(w) ** 2), max_kl=0.1, tries=5, shrink=0.5
    )
    assert (found.weights.tolist(), found.accepted, found.backtracks) == ([0.25], True, 2)
    assert (found.improvement, found.kl) == (0.25, 0.0625)


def test_the_search_goes_on_to_where_the_surrogate_is_better():
    """s - 3 s^2 is -2 at 1, -0.25 at 1/2 and better than at 0 from below 1/3 on: 1/4 - 3/16 = 1/16."""

    def measure(weights):
        s = float(weights)
        return s - 3 * s * s, 0.0

    found = line_search(torch.zeros(1), torch.ones(1), measure, max_kl=1.0, tries=5, shrink=0.5)
    assert (found.weights.tolist(), found.improvement) == ([0.25], 0.0625)


@pytest.mark.parametrize(
    "measure", [lambda w: (0.0, 0.0), lambda w: (float(w), math.inf if w else 0.0), lambda w: (-math.inf, math.inf)]
)
def test_where_nothing_is_acceptable_the_old_weights_are_the_answer(measure):
    old, asked = torch.zeros(1), []
    found = line_search(old, torch.ones(1), lambda w: asked.append(w) or measure(w), max_kl=1.0, tries=4, shrink=0.5)
    assert found.weights is old
    assert (found.accepted, found.backtracks, found.improvement, found.kl) == (False, 4, 0.0, 0.0)
    assert [w.item() for w in asked] == [0, 1, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("bound", [1e-4, 1e-2, 1.0])
def test_no_search_leaves_the_bound(bound):
    step = step_of(bound) * 3
    found = line_search(
        OLD, step, lambda w: (float(policy(w).exp() @ WORTH), kl(w)), max_kl=bound, tries=20, shrink=0.8
    )
    assert found.accepted
    assert found.backtracks > 0
    assert kl(found.weights) <= bound
    assert found.improvement > 0
