"""Linear layers by oneDNN: equal to torch's own, in value and gradient, and never out of date."""

import copy
import pickle

import pytest
import torch
from torch import nn

from agents.policy import linear

pytestmark = pytest.mark.skipif(not linear.available(), reason="this torch is built without oneDNN")


@pytest.fixture(autouse=True)
def _as_on_a_processor_without_mkl(monkeypatch):
    """Otherwise float32 is torch's own here, and would be compared with itself."""
    monkeypatch.setattr(linear, "has_fast_mkl", lambda: False)


def layer(dtype=torch.float32, *, bias=True):
    torch.manual_seed(0)
    return nn.Linear(24, 40, bias=bias).to(dtype)


def replaced(dtype=torch.float32, **options):
    """A layer with the other forward, and its handle."""
    made = layer(dtype, **options)
    (handle,) = linear.replace_products(nn.Sequential(made))
    return made, handle


def inputs(*shape, dtype=torch.float32):
    return torch.randn(*shape, 24, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 3), (1,), (0,)])
def test_value_and_gradients_are_those_of_torchs_own_linear(shape, bias):
    own, (other, _) = layer(bias=bias), replaced(bias=bias)
    x, y = (inputs(*shape).requires_grad_() for _ in range(2))
    weight = torch.arange(40.0)
    results = own(x), other(y)
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)
    for result in results:
        (result.square() * weight).sum().backward()
    torch.testing.assert_close(y.grad, x.grad, atol=1e-3, rtol=1e-5)
    for p, q in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-3, rtol=1e-5)


def test_only_the_gradients_that_are_wanted_are_made():
    made, _ = replaced()
    made.weight.requires_grad_(False)
    x = inputs(3)
    made(x).sum().backward()
    assert made.weight.grad is None
    assert torch.equal(made.bias.grad, torch.full((40,), 3.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepacked_weights_give_the_same_until_they_are_released(dtype):
    own, (other, handle) = layer(dtype), replaced(dtype)
    x = inputs(5, dtype=dtype)
    handle.prepack()
    with torch.no_grad():
        torch.testing.assert_close(other(x), own(x))
    assert other(x).requires_grad  # with a gradient the plain weights are taken
    handle.release()
    assert handle.prepacked is None


@pytest.mark.parametrize("change", ["in place", "replaced", "another format"])
def test_weights_that_changed_are_prepacked_again(change):
    made, handle = replaced()
    handle.prepack()
    with torch.no_grad():
        if change == "in place":
            made.weight.mul_(2)
        elif change == "replaced":
            made.weight.data = made.weight.data.clone() * 2
        else:
            made.to(torch.bfloat16)
        x = inputs(4, dtype=made.weight.dtype)
        torch.testing.assert_close(made(x), nn.functional.linear(x, made.weight, made.bias))


def test_a_copy_has_weights_of_its_own_and_so_has_a_pickle():
    made, handle = replaced()
    handle.prepack()
    x = inputs(3)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        with torch.no_grad():
            before = made(x).clone()
            torch.testing.assert_close(other(x), before)
            other.weight.zero_()
            other.bias.zero_()
            assert not other(x).any()
            torch.testing.assert_close(made(x), before)


def test_a_subclass_keeps_its_own_forward():
    class Other(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    assert linear.replace_products(nn.Sequential(Other(24, 40))) == []


def test_the_state_dict_is_the_modules_own():
    assert set(replaced()[0].state_dict()) == {"weight", "bias"}
