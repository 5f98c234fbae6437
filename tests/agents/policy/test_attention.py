"""`grouped_attention` against a loop over heads and queries, in both number formats and on both of its paths."""

import pytest
import torch

from agents.policy import attention
from agents.policy.attention import Sight, grouped_attention

ROWS, QUERIES, KEYS, HEADS, KEY_HEADS, SIZE = 3, 5, 7, 6, 2, 4


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(ROWS, QUERIES, HEADS, SIZE, generator=generator)
    k, v = (torch.randn(ROWS, KEYS, KEY_HEADS, SIZE, generator=generator) for _ in range(2))
    visible = torch.rand(ROWS, QUERIES, KEYS, generator=generator) < 0.6
    visible[:, :, 0] = True
    return q, k, v, visible


def by_hand(q, k, v, visible, scale):
    """One query of one head at a time; head h reads key/value head h // 3."""
    out = torch.zeros(ROWS, QUERIES, HEADS, SIZE)
    for b in range(ROWS):
        for h in range(HEADS):
            for i in range(QUERIES):
                seen = visible[b, i].nonzero()[:, 0]
                keys, values = k[b, seen, h // 3], v[b, seen, h // 3]
                out[b, i, h] = ((keys @ q[b, i, h]) * scale).softmax(0) @ values
    return out


def attended(q, k, v, visible, scale, window=None):
    """`grouped_attention`, the queries at the last positions of the keys."""
    position = torch.arange(KEYS).expand(ROWS, -1)
    sight = Sight(visible, position[:, KEYS - QUERIES :], position)
    return grouped_attention(q, k.transpose(1, 2), v.transpose(1, 2), sight, scale, window)


def fused(monkeypatch):
    monkeypatch.setattr(attention, "PLAIN_SCORES", 0)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("path", ["plain", "fused"])
def test_it_is_attention(monkeypatch, path, scale):
    if path == "fused":
        fused(monkeypatch)
    q, k, v, visible = inputs()
    expected = by_hand(q, k, v, visible, SIZE**-0.5 if scale is None else scale)
    torch.testing.assert_close(attended(q, k, v, visible, scale), expected, rtol=1e-5, atol=1e-6)


def test_both_paths_have_the_same_gradient_and_hidden_keys_none(monkeypatch):
    *arrays, visible = inputs()
    visible[1, :, 3] = False
    gradients = []
    for path in ("plain", "fused"):
        if path == "fused":
            fused(monkeypatch)
        q, k, v = (x.clone().requires_grad_() for x in arrays)
        attended(q, k, v, visible, None).square().sum().backward()
        gradients.append((q.grad, k.grad, v.grad))
        assert not k.grad[1, 3].any()
        assert not v.grad[1, 3].any()
    for plain, other in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_near_float32():
    q, k, v, visible = inputs()
    expected = attended(q, k, v, visible, None)
    rounded = attended(*(x.bfloat16() for x in (q, k, v)), visible, None)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), expected, rtol=0, atol=0.04)


def test_a_window_hides_what_lies_too_far_back_and_other_layers_see_it():
    """One `Sight` serves layers with different windows: query i stands at column i + 2 of seven."""
    q, k, v, _ = inputs()
    visible = torch.arange(KEYS)[None, :] <= torch.arange(KEYS - QUERIES, KEYS)[:, None]
    visible = visible.expand(ROWS, -1, -1)
    near = visible & (torch.arange(KEYS - QUERIES, KEYS)[:, None] - torch.arange(KEYS)[None, :] < 2)
    position = torch.arange(KEYS).expand(ROWS, -1)
    sight = Sight(visible, position[:, KEYS - QUERIES :], position)
    for window, seen in ((None, visible), (2, near), (None, visible)):
        out = grouped_attention(q, k.transpose(1, 2), v.transpose(1, 2), sight, 0.5, window)
        torch.testing.assert_close(out, by_hand(q, k, v, seen, 0.5), rtol=1e-5, atol=1e-6)
