"""A decoder goes through all layers in one call: what it gives is what the layers give one by one."""

import copy
import ctypes
import pickle
import warnings

import numpy as np
import pytest
import torch
from small import PACKED, hugging_face_model, language_model, prompts_of, small_policy, write
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from agents.policy import LanguageModel
from agents.policy.attention import NextView
from agents.policy.cache import SlotCache
from agents.policy.compiled import library
from agents.policy.decoder import (
    INSTRUCTIONS,
    READ_COLUMNS,
    Decoder,
    DecoderOf,
    LayerOf,
    available,
    blocks_of,
    decoder_of,
)
from agents.policy.lora import adapt
from agents.policy.reading import CachedReader
from rewards.preference.lora import LoraConfig

DECODED = ("llama", "qwen2", "qwen3", "mistral")
"""Families of the tests whose layers the decoder knows: biases, norms of heads and windows among them."""
DTYPES = [
    pytest.param(dtype, marks=pytest.mark.skipif(not available(dtype), reason=f"no product for {dtype} here"))
    for dtype in (torch.float32, torch.bfloat16)
]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}
SIZES = [(3, 3, 64), (1, 2, 128), (2, 4, 64), (2, 5, 32), (2, 7, 64), (1, 3, 128)]
"""Heads of keys, queries for each, numbers of one."""


def model_of(family: str, dtype: torch.dtype) -> LanguageModel:
    return LanguageModel(hugging_face_model(family).to(dtype))


def cache_of(model: LanguageModel, slots: int, columns: int) -> torch.Tensor:
    layers, heads, size = model.cache_shape
    generator = torch.Generator().manual_seed(0)
    return torch.randn(layers, 2, slots, heads, columns, size, generator=generator).to(model.weight.dtype)


def assert_decoded_as_by_layers(model, tokens, position, *, slots: int, columns: int) -> None:
    """States and what is left in the cache, relative to the number format."""
    tolerance = TOLERANCE[model.weight.dtype]
    caches = [cache_of(model, slots, columns) for _ in range(2)]
    with torch.no_grad():
        expected = model.states(tokens, position, NextView(caches[0], position, position, columns))
        model.prepack()
        found = model.states(tokens, position, NextView(caches[1], position, position, columns))
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
    assert float((caches[0] - caches[1]).abs().max()) <= tolerance * float(caches[0].abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 64, 65, 130])
@pytest.mark.parametrize("family", DECODED)
def test_states_and_cache_are_those_of_the_layers_one_by_one(family, rows, dtype):
    model = model_of(family, dtype)
    assert model.decoder is not None
    tokens = torch.arange(rows) % 30
    position = torch.arange(rows) % 9  # ragged
    assert_decoded_as_by_layers(model, tokens, position, slots=rows + 2, columns=12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "group", "size"), [(3, 3, 64), (1, 2, 128), (2, 4, 64), (2, 5, 32), (2, 7, 64), (1, 3, 128)]
)
def test_heads_of_the_usual_sizes(heads, group, size, dtype):
    """Those that have code of their own, and one that has not."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16 * heads * group, intermediate_size=160, num_hidden_layers=2, head_dim=size,
        num_attention_heads=heads * group, num_key_value_heads=heads,
    )  # fmt: skip
    model = LanguageModel(LlamaForCausalLM(config).to(dtype))
    assert model.decoder is not None
    tokens, position = torch.arange(20), torch.arange(20) * 2
    assert_decoded_as_by_layers(model, tokens, position, slots=20, columns=40)


def reader_of(model: LanguageModel, tokens: np.ndarray) -> CachedReader:
    cache = SlotCache(len(tokens), tokens.shape[1], model.cache_shape, model.weight.detach())
    return CachedReader(model, cache, tokens)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "group", "size", "window"), [(1, 3, 64, None), (2, 2, 64, 5), (1, 7, 64, None), (1, 6, 128, None)]
)
def test_texts_are_read_as_by_the_layers_one_by_one(heads, group, size, window, dtype):
    """Ragged prompts, two of them equal; then what was appended to some of the rows."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=40, hidden_size=32, intermediate_size=160, num_hidden_layers=2, head_dim=size,
        num_attention_heads=heads * group, num_key_value_heads=heads, sliding_window=window, pad_token_id=None,
    )  # fmt: skip
    model = LanguageModel(MistralForCausalLM(config).to(dtype))
    assert model.decoder is not None
    tokens = np.random.default_rng(0).integers(1, 40, size=(7, 40))
    tokens[5] = tokens[2]
    one, other = reader_of(model, tokens), reader_of(model, tokens)
    lengths = np.array([3, 20, 9, 1, 33, 9, 17]), np.array([3, 26, 9, 5, 33, 10, 17])
    for length, rows in zip(lengths, (np.arange(7), np.array([1, 3, 5])), strict=True):
        with torch.no_grad():
            decoder, model.decoder = model.decoder, None
            expected = other.read(length, rows)
            model.decoder = decoder
            model.prepack()
            assert model.decoder.ready
            found = one.read(length, rows)
        assert float((found - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())
        for row in rows:
            slots, held = (reader.cache.slot[row] for reader in (one, other)), length[row]
            a, b = (r.cache.data[:, :, slot, :, :held] for r, slot in zip((one, other), slots, strict=True))
            assert float((a - b).abs().max()) <= TOLERANCE[dtype] * float(b.abs().max())


def test_a_long_text_is_read_layer_by_layer(monkeypatch):
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = LanguageModel(LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=64, num_attention_heads=1,
                                                       intermediate_size=64, num_hidden_layers=1)))  # fmt: skip
    model.prepack()
    calls = []
    states = Decoder.states
    monkeypatch.setattr(Decoder, "states", lambda self, x, *rest: calls.append(len(x)) or states(self, x, *rest))
    tokens = np.ones((2, READ_COLUMNS + 1), np.int64)
    tokens[1] = 2
    with torch.no_grad():
        reader_of(model, tokens).read(np.array([READ_COLUMNS + 1, 4]), np.arange(2))
        assert not calls
        reader_of(model, tokens).read(np.array([READ_COLUMNS, 4]), np.arange(2))
    assert calls == [READ_COLUMNS + 4]


@pytest.mark.parametrize("family", DECODED)
def test_a_policy_writes_the_same_with_and_without(family):
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    prompts = prompts_of((5, 9, 1, 12) * 5)
    one, other = small_policy(family), small_policy(family)
    assert one.model.decoder is not None
    other.model.decoder = None
    written, expected = (write(policy, prompts, max_tokens=8, budget=20) for policy in (one, other))
    assert written.completions == expected.completions
    for a, b in zip(written.logprobs, expected.logprobs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def next_states(model: LanguageModel, *, layers_one_by_one: bool = False) -> torch.Tensor:
    """Of five rows at ragged positions over a cache of fixed numbers."""
    tokens, position = torch.arange(5), torch.arange(5) * 2
    decoder, model.decoder = model.decoder, None if layers_one_by_one else model.decoder
    with torch.no_grad():
        states = model.states(tokens, position, NextView(cache_of(model, 5, 12), position, position, 12))
    model.decoder = decoder
    return states


def test_changed_weights_are_packed_anew():
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = language_model("llama")
    model.prepack()
    before = next_states(model)
    with torch.no_grad():
        model.model.model.layers[1].mlp.down_proj.weight.mul_(2)
    model.prepack()
    expected = next_states(model, layers_one_by_one=True)
    torch.testing.assert_close(next_states(model), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, before, rtol=1e-2)


def test_a_conversion_asks_again_for_the_product(monkeypatch):
    """As the optimizer does it: weights are exchanged in place; the processor may lack what the new format needs."""
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = language_model("llama")
    monkeypatch.setitem(INSTRUCTIONS, torch.bfloat16, {"no-such-instruction"})
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    model.prepack()
    assert not model.decoder.ready
    assert next_states(model).dtype == torch.bfloat16


def test_without_onednn_torch_computes():
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = language_model("llama")
    model.prepack()
    torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags warns of GPUs that are not there
    try:
        assert not model.decoder.ready
        assert not available(torch.float32)
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert model.decoder.ready


def test_weights_are_packed_for_acting_and_forgotten_for_an_update():
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = language_model("llama")
    assert not model.decoder.ready
    model.prepack()
    assert model.decoder.ready
    assert not any(x.prepacked is not None for x in model.products if x.layer in model.decoder.linears())
    model.release()
    assert not model.decoder.ready


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_weights_of_its_own(duplicate):
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = language_model("llama")
    other = duplicate(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    tokens = position = torch.zeros(1, dtype=torch.int64)
    caches = [cache_of(model, 1, 2) for _ in range(2)]
    states = []
    for one, cache in zip((model, other), caches, strict=True):
        one.prepack()
        with torch.no_grad():
            states.append(one.states(tokens, position, NextView(cache, position, position, 1)))
    assert not torch.allclose(*states)


def test_an_adapter_turns_it_off():
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = language_model("llama")
    model.prepack()
    assert model.decoder.ready
    adapt(model, LoraConfig(rank=2), seed=0)
    model.prepack()
    assert model.decoder is not None
    assert not model.decoder.ready


@pytest.mark.parametrize("family", sorted(set(PACKED) - set(DECODED)))
def test_other_families_take_their_layers_one_by_one(family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert language_model(family).decoder is None


def test_a_layer_that_gives_something_else_is_not_taken(monkeypatch):
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = language_model("llama")
    layers = list(model.model.model.layers)
    assert decoder_of(layers, model.cache_shape[1:], torch.float32) is not None
    monkeypatch.setattr("agents.policy.decoder.blocks_of", lambda weight: blocks_of(weight * 1.1))
    assert decoder_of(layers, model.cache_shape[1:], torch.float32) is None


@pytest.mark.parametrize("layer", [0, 1])
def test_a_body_that_changes_what_its_layers_get_is_not_taken(layer):
    model = hugging_face_model("llama")
    model.model.layers[layer].register_forward_pre_hook(lambda _, given: (given[0] * 2, *given[1:]))
    assert LanguageModel(model).decoder is None


def test_a_hook_that_comes_later_turns_it_off():
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    model = language_model("llama")
    model.prepack()
    model.model.model.layers[1].register_forward_hook(lambda _, given, result: result * 2)
    model.prepack()
    assert not model.decoder.ready


def test_each_format_is_tried_before_it_is_used(monkeypatch):
    """A run loads float32 and may train in bfloat16, whose products are others."""
    if not (available(torch.float32) and available(torch.bfloat16)):
        pytest.skip("no products for both formats here")
    model = language_model("llama")
    model.prepack()
    assert model.decoder.ready
    monkeypatch.setattr("agents.policy.decoder.blocks_of", lambda weight: blocks_of(weight * 1.1))
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    model.prepack()
    assert not model.decoder.ready


def test_structures_are_as_large_as_in_c():
    if not available(torch.float32):
        pytest.skip("no product for float32 here")
    sizes = library().size_of_layer(), library().size_of_decoder()
    assert sizes == (ctypes.sizeof(LayerOf), ctypes.sizeof(DecoderOf))


def test_layers_in_another_order_than_their_numbers_are_not_taken():
    model = hugging_face_model("llama")
    model.model.layers = torch.nn.ModuleList(reversed(model.model.layers))
    assert LanguageModel(model).decoder is None


def test_blocks_are_transposed_and_filled_up():
    weight = torch.arange(6.0).view(3, 2)  # three outputs of two inputs
    blocks = blocks_of(weight)
    assert blocks.shape == (1, 2, 32)
    assert blocks[0, :, :4].tolist() == [[0, 2, 4, 0], [1, 3, 5, 0]]
    pairs = blocks_of(weight.bfloat16()).view(torch.bfloat16)
    assert pairs[0, 0, :8].tolist() == [0, 1, 2, 3, 4, 5, 0, 0]  # both inputs of one output beside each other
