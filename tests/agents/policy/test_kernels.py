import copy
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from agents.policy import kernels
from agents.policy.fused import Gated, Norm, replace_elementwise

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="no C compiler here, or kernels are turned off")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
DTYPES = list(TOLERANCE)

pytestmark = needs_kernels


@pytest.fixture(autouse=True)
def without_gradient():
    with torch.no_grad():
        yield


def numbers(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Relative to the number format."""
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3), (2, 5, 67), (300, 64)])
def test_rms_norm_divides_by_the_root_of_the_mean_square(dtype, shape):
    x, weight = numbers(*shape, seed=0, dtype=dtype), numbers(shape[-1], seed=1, dtype=dtype)
    scaled = x.double() / (x.double().square().mean(-1, keepdim=True) + 0.01).sqrt()
    assert_near(kernels.rms_norm(x, weight, 0.01, False), scaled * weight.double())
    assert_near(kernels.rms_norm(x, weight, 0.01, True), scaled * (1 + weight.double()))


def test_rms_norm_of_numbers_worked_out_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])  # mean square 12.5; with eps .5 the root is sqrt(13)
    norm = kernels.rms_norm(x, torch.tensor([1.0, 2.0]), 0.5, False)
    torch.testing.assert_close(norm, torch.tensor([[3 / 13**0.5, 8 / 13**0.5], [0, 0]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 31, 5000])
def test_silu_mul_at_all_sizes(dtype, size):
    gate, up = 3 * numbers(2, size, seed=0, dtype=dtype), numbers(2, size, seed=1, dtype=dtype)
    assert_near(kernels.silu_mul(gate, up), gate.double() * gate.double().sigmoid() * up.double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_far_out(dtype):
    """Whole registers of numbers whose exponential is infinite: nothing may become no number."""
    gate = torch.tensor([-2e4, -200.0, -95.0, -20.0, 0.0, 20.0, 95.0, 200.0], dtype=dtype).repeat(16)
    up = torch.ones_like(gate)
    expected = gate.double() / (1 + (-gate.double()).exp())
    torch.testing.assert_close(kernels.silu_mul(gate, up).double(), expected, rtol=2**-7, atol=1e-6)
    by_gate, by_up = kernels.silu_mul_backward(gate, up, up)
    sigmoid = gate.double().sigmoid()
    torch.testing.assert_close(by_up.double(), expected, rtol=2**-7, atol=1e-6)
    slope = sigmoid * (1 + gate.double() * (1 - sigmoid))
    torch.testing.assert_close(by_gate.double(), slope, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(("heads", "group", "size"), [(3, 3, 64), (2, 1, 64), (1, 4, 128), (2, 2, 10)])
def test_attention_of_a_new_token_is_the_softmax_over_what_its_row_holds(heads, group, size, window, dtype):
    slots, rows, columns = 5, 4, 9
    cache = numbers(2, slots, heads, columns, size, seed=0, dtype=dtype)
    before = cache.clone()
    q = numbers(heads * group, rows, size, seed=1, dtype=dtype).transpose(0, 1)  # as it comes: heads before rows
    k = numbers(rows, heads, size, seed=2, dtype=dtype)
    v = numbers(heads, rows, size, seed=3, dtype=dtype).transpose(0, 1)
    position, column = torch.tensor([0, 6, 3, 0]), torch.tensor([0, 6, 3, 8])  # the last row has ended
    out = kernels.attend(q, k, v, cache, column, position, 0.3, window)
    for row in range(rows):
        before[0, row, :, column[row]], before[1, row, :, column[row]] = k[row], v[row]
        end = int(position[row]) + 1
        seen = slice(max(0, end - (window or columns)), end)
        for head in range(heads * group):
            keys, values = before[:, row, head // group, seen].double()
            weight = (0.3 * keys @ q[row, head].double()).softmax(0)
            assert_near(out[row, head], weight @ values)
    assert torch.equal(cache, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_a_drawn_token_is_the_inverse_of_the_cumulative_distribution(size, temperature, dtype):
    rows = 200
    logits = 2 * numbers(rows, size + 3, seed=0, dtype=dtype)[:, :size]  # rows that pad the head are no tokens
    uniform = torch.rand(rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    token, logprob = kernels.draw(logits, uniform, temperature)
    exact = (logits.double() / temperature).log_softmax(-1)
    upto = exact.exp().cumsum(-1)
    before = upto.gather(1, token[:, None])[:, 0] - exact.exp().gather(1, token[:, None])[:, 0]
    assert ((before - 1e-6 <= uniform) & (uniform <= upto.gather(1, token[:, None])[:, 0] + 1e-6)).all()
    torch.testing.assert_close(logprob.double(), exact.gather(1, token[:, None])[:, 0], atol=2e-6, rtol=1e-6)


def test_a_token_without_mass_is_never_drawn():
    logits = torch.full((4, 600), -torch.inf)
    logits[:, [3, 300]] = 0.0
    token, logprob = kernels.draw(logits, torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64), 1.0)
    assert token.tolist() == [3, 3, 300, 300]
    torch.testing.assert_close(logprob, torch.full((4,), math.log(0.5)))


def test_a_logit_that_is_no_number_shows_in_the_log_probability():
    logits = torch.zeros(2, 600)
    logits[1, 5] = torch.nan
    _, logprob = kernels.draw(logits, torch.full((2,), 0.3, dtype=torch.float64), 1.0)
    assert logprob.isnan().tolist() == [False, True]


def llama(**changes) -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=2, **(shape | changes))).eval()


def test_the_norms_and_gated_layers_of_a_llama_are_replaced_and_mean_the_same():
    model = llama()
    model.model.norm.weight.copy_(torch.linspace(0.5, 2, 32))
    ids = torch.arange(20).view(2, 10)
    own = model(ids).logits
    replaced = replace_elementwise(model)
    assert [type(x) for x in replaced].count(Norm) == 5
    assert [type(x) for x in replaced].count(Gated) == 2
    torch.testing.assert_close(model(ids).logits, own, rtol=1e-4, atol=1e-5)


def test_gemma_scales_by_one_plus_the_weight_and_keeps_its_own_activation():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 1}
    model = GemmaForCausalLM(GemmaConfig(vocab_size=50, num_hidden_layers=1, head_dim=8, **shape)).eval()
    replaced = replace_elementwise(model)
    assert [(type(x), x.plus_one) for x in replaced if isinstance(x, Norm)] == [(Norm, True)] * 3
    assert len(replaced) == 3


def test_an_activation_by_another_name_is_left_alone():
    assert not any(isinstance(x, Gated) for x in replace_elementwise(llama(hidden_act="relu")))


class NormWithGate(torch.nn.Module):
    """As in models with linear attention; without its gate a norm that the kernels know."""

    def __init__(self):
        super().__init__()
        self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(16)), 1e-6

    def forward(self, x, gate=None):
        x = self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        return x if gate is None else x * gate


class NormOfHeads(NormWithGate):
    """Takes what no other norm takes."""

    def forward(self, x):
        rows, heads, size = x.shape
        return x.reshape(rows, heads * size) * self.weight


@pytest.mark.parametrize("norm", [NormWithGate, NormOfHeads])
def test_a_norm_that_takes_something_else_is_left_alone(norm):
    model = torch.nn.Sequential(norm())
    assert replace_elementwise(model) == []
    assert "forward" not in vars(model[0])


def test_a_gradient_is_the_modules_own_up_to_rounding():
    model = llama()
    ids = torch.arange(10)[None]

    def gradient():
        model.zero_grad()
        with torch.enable_grad():
            model(ids).logits.square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    own = gradient()
    replace_elementwise(model)
    for found, expected in zip(gradient(), own, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_weights_of_its_own(duplicate):
    model = llama()
    replace_elementwise(model)
    ids = torch.arange(10)[None]
    before = model(ids).logits
    other = duplicate(model)
    assert torch.equal(other(ids).logits, before)
    other.model.norm.weight.mul_(2)
    torch.testing.assert_close(other(ids).logits, 2 * before)
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("target", [-1, 9])
def test_a_target_without_a_logit_is_refused(target):
    low, high = min(3, target), max(3, target)
    with pytest.raises(IndexError, match=f"a target must be from 0 to 8, got {low} to {high}"):
        kernels.score(torch.zeros(2, 9), torch.tensor([3, target]), 1.0)


SHOW = "from agents.policy.compiled import library; print(library() is None)"


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SHOW], env=os.environ | environment, capture_output=True, text=True, check=True
    )


def test_they_can_be_turned_off():
    done = run(TEXTENV_KERNELS="0")
    assert done.stdout.strip() == "True"
    assert not done.stderr


def test_without_a_compiler_torch_computes(tmp_path):
    done = run(CC="no-such-compiler", TEXTENV_CACHE=str(tmp_path))
    assert done.stdout.strip() == "True"
    assert not done.stderr


def test_a_compiler_that_fails_is_reported_and_leaves_nothing(tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no such option >&2; exit 1\n")
    broken.chmod(0o755)
    done = run(CC=str(broken), TEXTENV_CACHE=str(tmp_path / "cache"))
    assert done.stdout.strip() == "True"
    assert "could not be compiled, torch's are used: no such option" in done.stderr
    assert not list((tmp_path / "cache").iterdir())
