"""Layers by the kernels: taken where they are equal, left alone where the same parts mean something else."""

import pytest
import torch
import transformers

from agents.policy import LanguageModel, kernels
from agents.policy.attention import NextView
from agents.policy.fused import Layer
from agents.policy.trial import causal_view

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C compiler here, or kernels are turned off")

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OTHERS = {
    "Gemma3TextConfig": {"head_dim": 8},
    "Olmo2Config": {},
    "Olmo3Config": {},
    "MellumConfig": {"head_dim": 8, **EXPERTS},  # angles of their own for kinds of layers
    "Glm4MoeConfig": {"head_dim": 8, "partial_rotary_factor": 0.5, "first_k_dense_replace": 4},
    "Qwen3MoeConfig": {"head_dim": 8, **EXPERTS},
    "MixtralConfig": {"num_local_experts": 4},
    "GlmConfig": {"head_dim": 8, "partial_rotary_factor": 0.5},
    "GraniteConfig": {"residual_multiplier": 0.7, "embedding_multiplier": 3.0},
    "SmolLM3Config": {},
    "Ministral3Config": {"head_dim": 8},
    "PhiConfig": {},
    "Phi3Config": {},
}


def model_of(config: str, changes: dict) -> transformers.PreTrainedModel:
    if not hasattr(transformers, config):
        pytest.skip(f"this transformers has no {config}")
    torch.manual_seed(0)
    made = getattr(transformers, config)(**SHAPE | changes)
    model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager").float().eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 3.0 if "embed" in name else 0.3)
        else:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.mark.filterwarnings("ignore:.*slower path")
@pytest.mark.parametrize("far", [0, 200])
@pytest.mark.parametrize("config", OTHERS)
def test_every_family_loads_and_means_what_it_meant(config, far):
    model = model_of(config, OTHERS[config])
    tokens, position = torch.arange(12)[None] * 3, torch.arange(12)[None] + far
    with torch.no_grad():
        own = model(input_ids=tokens, position_ids=position, use_cache=False).logits[0]
        wrapped = LanguageModel(model)
        if not wrapped.packed:
            pytest.skip(f"{config} runs on the slower path, its layers are never replaced")
        found = wrapped.head(wrapped.states(tokens[0], position[0], causal_view(1, 12, tokens.device)))
    torch.testing.assert_close(found, own, rtol=1e-3, atol=1e-3 * float(own.abs().max()))


@pytest.mark.filterwarnings("ignore:.*slower path")
@pytest.mark.parametrize("config", OTHERS)
def test_every_family_decodes_what_its_layers_give_one_by_one(config):
    wrapped = LanguageModel(model_of(config, OTHERS[config]))
    if not wrapped.packed or wrapped.decoder is None:
        pytest.skip(f"{config} takes its layers one by one")
    layers, heads, size = wrapped.cache_shape
    tokens, position = torch.arange(5) * 3, torch.arange(5)
    caches = [torch.linspace(-9, 9, layers * 10 * heads * 6 * size).sin().view(layers, 2, 5, heads, 6, size)] * 2
    views = [NextView(cache.clone(), position, position, 6) for cache in caches]
    with torch.no_grad():
        expected = wrapped.states(tokens, position, views[0])
        wrapped.prepack()
        found = wrapped.states(tokens, position, views[1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_large_number_in_the_residual_stream_hides_nothing():
    """Residuals are scaled by .7; beside an element of 1e4 that is less than a part in a thousand."""
    model = model_of("GraniteConfig", OTHERS["GraniteConfig"])
    model.model.embed_tokens.weight.data[:, 0] = 1e4
    wrapped = LanguageModel(model)
    assert not any(isinstance(layer.forward, Layer) for layer in wrapped.model.model.layers)


def test_layers_of_llama_are_taken():
    wrapped = LanguageModel(model_of("LlamaConfig", {}))
    assert all(isinstance(layer.forward, Layer) for layer in wrapped.model.model.layers)


def test_automatic_mixed_precision_falls_back_to_torch():
    """Under autocast a layer's parts have other number formats than its input."""
    model, twin = model_of("LlamaConfig", {}), model_of("LlamaConfig", {})
    tokens = torch.arange(12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        own = twin(input_ids=tokens[None], use_cache=False).logits[0]
    wrapped = LanguageModel(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = wrapped.head(wrapped.states(tokens, tokens, causal_view(1, 12, tokens.device)))
    assert float((found - own).abs().mean()) < 0.02 * float(own.abs().max())
