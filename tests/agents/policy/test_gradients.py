"""The kernels' gradients: those of the same formulas in float64, by torch."""

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from agents.policy import kernels
from agents.policy.gradients import AddRmsNorm, Collect, GatedLinear, RmsNorm, Rotate, SiluMul, Spread
from agents.policy.route import route_of

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C compiler here, or kernels are turned off")
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-6}
DTYPES = list(TOLERANCE)
EPS = 0.01


def numbers(*shape, seed, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def assert_same_gradients(function, formula, leaves):
    """Of a sum in which every output has a weight of its own; relative to the largest number of each."""
    exact = [x.detach().double().requires_grad_() for x in leaves]
    found, expected = function(*leaves), formula(*exact)
    found = found if isinstance(found, tuple) else (found,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    weights = [torch.linspace(-1, 2, x.numel(), dtype=torch.float64).view_as(x) for x in expected]
    by_torch = torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, expected, strict=True)), exact)
    ours = torch.autograd.grad(
        found, leaves, [w.to(x.dtype) for w, x in zip(weights, found, strict=True)], allow_unused=False
    )
    tolerance = TOLERANCE[leaves[0].dtype]
    for a, b in zip((*found, *ours), (*expected, *by_torch), strict=True):
        a, b = a.detach(), b.detach()
        assert a.dtype == leaves[0].dtype
        assert float((a.double() - b).abs().max()) <= tolerance * float(b.abs().max())


def norm(x, weight, plus_one):
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * (plus_one + weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("shape", [(1, 6), (2, 5, 67), (100, 64)])
def test_rms_norm(shape, plus_one, dtype):
    leaves = [numbers(*shape, seed=0, dtype=dtype), numbers(shape[-1], seed=1, dtype=dtype)]
    assert_same_gradients(lambda x, w: RmsNorm.apply(x, w, EPS, plus_one), lambda x, w: norm(x, w, plus_one), leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plus_one", [False, True])
def test_the_norm_of_a_sum_and_the_sum_itself(plus_one, dtype):
    leaves = [numbers(7, 66, seed=k, dtype=dtype) for k in range(2)] + [numbers(66, seed=2, dtype=dtype)]
    assert_same_gradients(
        lambda x, y, w: AddRmsNorm.apply(x, y, w, EPS, plus_one),
        lambda x, y, w: (x + y, norm(x + y, w, plus_one)),
        leaves,
    )


def test_a_norm_worked_out_by_hand():
    """x = (3, 4): mean square 12.5, with .5 of eps a root of sqrt(13) = r. y1 = x1 / r, so dy1/dx1 = 1/r - x1^2 / 2 r^3
    and dy1/dx2 = - x1 x2 / 2 r^3."""
    x, weight = torch.tensor([[3.0, 4.0]], requires_grad=True), torch.ones(2, requires_grad=True)
    RmsNorm.apply(x, weight, 0.5, False)[0, 0].backward()
    r = 13**0.5
    torch.testing.assert_close(x.grad, torch.tensor([[1 / r - 9 / (2 * r**3), -12 / (2 * r**3)]]))
    torch.testing.assert_close(weight.grad, torch.tensor([3 / r, 0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_weights_gradient_repeats_bit_for_bit(dtype):
    x, weight, by = (numbers(*shape, seed=3, dtype=dtype).detach() for shape in [(500, 64), (64,), (500, 64)])
    first = kernels.rms_norm_backward(x, weight, by, None, EPS, False)
    for _ in range(5):
        again = kernels.rms_norm_backward(x, weight, by, None, EPS, False)
        assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 3, 10), (300, 4, 64)])
def test_rotary_positions(shape, dtype):
    angle = torch.linspace(0, 3, shape[0] * shape[2] // 2).view(shape[0], -1).repeat(1, 2)
    cosine, sine = angle.cos().to(dtype), angle.sin().to(dtype)

    def turned(x):
        left, right = x.chunk(2, -1)
        return x * cosine.double()[:, None] + torch.cat([-right, left], -1) * sine.double()[:, None]

    assert_same_gradients(lambda x: Rotate.apply(x, cosine, sine), turned, [numbers(*shape, seed=0, dtype=dtype)])


def test_a_turn_by_hand_and_back():
    x, zero, one = torch.tensor([[[1.0, 2.0]]]), torch.zeros(1, 2), torch.ones(1, 2)
    turned = kernels.rotate(x, zero, one)  # by a right angle
    assert turned.tolist() == [[[-2.0, 1.0]]]
    assert kernels.rotate(turned, zero, one, back=True).tolist() == x.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 33, 5000])
def test_gated_products(size, dtype):
    leaves = [numbers(2, size, seed=k, dtype=dtype) for k in range(2)]
    assert_same_gradients(SiluMul.apply, lambda gate, up: silu(gate) * up, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_linear_layer_over_a_gated_product(with_bias, dtype):
    leaves = [numbers(3, 8, 12, seed=k, dtype=dtype) for k in range(2)]
    leaves += [numbers(5, 12, seed=2, dtype=dtype)] + ([numbers(5, seed=3, dtype=dtype)] if with_bias else [])

    def ours(gate, up, weight, bias=None):
        return GatedLinear.apply(gate, up, weight, bias)

    def exact(gate, up, weight, bias=None):
        return nn.functional.linear(silu(gate) * up, weight, bias)

    assert_same_gradients(ours, exact, leaves)


def test_frozen_weights_get_no_gradient():
    gate, up = (numbers(4, 6, seed=k, dtype=torch.float32) for k in range(2))
    weight = numbers(3, 6, seed=2, dtype=torch.float32).detach()
    GatedLinear.apply(gate, up, weight, None).sum().backward()
    assert gate.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("size", [1, 255, 257, 1000])
def test_scores_of_targets_and_what_they_mean_for_the_logits(size, temperature, dtype):
    rows = 20
    logits = (3 * numbers(rows, size + 3, seed=0, dtype=dtype).detach())[:, :size]  # a row is longer than it looks
    target = torch.randint(size, (rows,), generator=torch.Generator().manual_seed(1))
    change = torch.linspace(-1, 2, rows)
    exact = logits.double().requires_grad_()
    every = (exact / temperature).log_softmax(-1)
    expected = every.gather(1, target[:, None])[:, 0]
    (by_torch,) = torch.autograd.grad((change.double() * expected).sum(), exact)
    logprob, total = kernels.score(logits, target, temperature)
    torch.testing.assert_close(logprob.double(), expected, atol=5e-6, rtol=1e-6)
    torch.testing.assert_close(total.double(), (exact / temperature).logsumexp(-1), atol=5e-6, rtol=1e-6)
    found = kernels.score_backward(logits, target, total, change, temperature)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), by_torch, atol=TOLERANCE[dtype] / 10, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [10, 64])
def test_spreading_and_collecting_by_hand(size, dtype):
    """Five tokens in two padded rows: token 0 stands in three places, token 4 in none."""
    index = torch.tensor([[0, 1, 0], [2, 0, 3]])
    route = route_of(index, torch.ones_like(index, dtype=torch.bool), 5)
    x = numbers(5, 2, size, seed=0, dtype=dtype)
    padded = Spread.apply(x, route)
    assert torch.equal(padded, x[index].transpose(1, 2))
    by = numbers(*padded.shape, seed=1, dtype=dtype).detach()
    (found,) = torch.autograd.grad(padded, x, by)
    expected = torch.zeros(5, 2, size, dtype=torch.float64)
    expected.index_add_(0, index.flatten(), by.double().transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10)


def test_what_stands_nowhere_is_zero_and_left_alone():
    index, exists = torch.tensor([[1, 0]]), torch.tensor([[True, False]])
    route = route_of(index, exists, 2)
    x = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    assert kernels.spread(x, route.index).tolist() == [[[[3.0, 4.0], [0.0, 0.0]]]]
    out = torch.full((2, 1, 2), 9.0)
    kernels.collect(torch.tensor([[[[5.0, 6.0], [7.0, 8.0]]]]), route.start, route.place, out)
    assert out.tolist() == [[[9.0, 9.0]], [[5.0, 6.0]]]


def test_two_paddings_are_collected_and_their_gradients_spread():
    first = route_of(torch.tensor([[0, 1]]), torch.tensor([[True, True]]), 3)
    second = route_of(torch.tensor([[2, 2]]), torch.tensor([[True, False]]), 3)
    blocks = [numbers(1, 2, 2, 4, seed=k, dtype=torch.float32) for k in range(2)]
    out = Collect.apply((first, second), *blocks)
    expected = torch.stack([blocks[0][0, :, 0], blocks[0][0, :, 1], blocks[1][0, :, 0]])
    assert torch.equal(out, expected)
    by = torch.arange(24.0).view(3, 2, 4)
    found = torch.autograd.grad(out, blocks, by)
    assert torch.equal(found[0], by[:2].transpose(0, 1)[None])
    assert torch.equal(found[1][0, :, 0], by[2])
    assert not found[1][0, :, 1].any()


def test_a_second_derivative_is_refused():
    x = torch.ones(2, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(RmsNorm.apply(x, torch.ones(4), EPS, False).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
