"""A model that computes more than is computed here is found out before it acts: it runs on the slower path, says so."""

import copy

import pytest
import torch
import transformers
from small import ACTIONS, BASE, GROUPED, logprobs_by_hand, prompts_of, ragged_rollout, write

from agents.policy import LanguageModel, Policy
from agents.policy.attention import NextView
from agents.policy.trial import causal_view, in_turn, silent_windows

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ODD = {
    "DiffLlamaConfig": GROUPED,  # a layer attends twice
    "HrmTextConfig": BASE,  # layers are gone through again and again
    "GPTNeoXJapaneseConfig": BASE,  # positions are where tokens stand
    "JetMoeConfig": BASE,  # more heads of keys than the settings say
    "MiMoV2FlashConfig": GROUPED | EXPERTS | {"head_dim": 8},  # values of another size than keys
    "Qwen3_5TextConfig": GROUPED | {"head_dim": 8},  # a norm takes a gate, a layer's state is no cache
    "OlmoHybridConfig": GROUPED,
    "PhimoeConfig": GROUPED | {"num_local_experts": 4, "sliding_window": 12},  # a window by a mask
}


def model_of(config, **changes):
    if not hasattr(transformers, config):
        pytest.skip(f"this transformers has no {config}")
    torch.manual_seed(0)
    made = getattr(transformers, config)(**ODD[config] | changes)
    model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager").float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    return model


@pytest.mark.parametrize("config", ODD)
def test_a_model_that_computes_something_else_falls_back_and_says_so(config):
    model = model_of(config)
    by_hand = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="runs on the slower path without a cache"):
        policy = Policy(LanguageModel(model), num_actions=ACTIONS)
    with torch.no_grad():
        scored = policy.evaluate(ragged_rollout()).logprob
    torch.testing.assert_close(scored, logprobs_by_hand(by_hand, ragged_rollout()), atol=5e-5, rtol=0)
    rollout = write(policy, prompts_of((5, 14, 1))).rollout()
    torch.testing.assert_close(rollout.sampled_logprob, logprobs_by_hand(by_hand, rollout), atol=5e-5, rtol=0)


def test_a_window_as_wide_as_the_text_can_be_hides_nothing():
    assert LanguageModel(model_of("PhimoeConfig", sliding_window=64)).packed


def test_windows_that_layers_do_not_ask_for():
    class Config:
        sliding_window = 4
        max_position_embeddings = 64

    config = Config()
    assert silent_windows(config, {0: 4, 1: None}, masked=True) is None  # some layers look back further
    assert silent_windows(config, {0: None, 1: None}, masked=False) is None  # nobody hides anything
    assert "look back 4 tokens" in silent_windows(config, {0: None, 1: None}, masked=True)
    config.layer_types = ["full_attention", "sliding_attention"]
    assert silent_windows(config, {0: None, 1: 4}, masked=True) is None
    assert "ask for no window" in silent_windows(config, {0: 4, 1: None}, masked=True)
    config.layer_types, config.sliding_window = ["linear_attention", "full_attention"], None
    assert silent_windows(config, {1: None}, masked=True) is None


def test_a_model_whose_hidden_states_are_out_of_reach_is_refused_by_name():
    model = model_of("DiffLlamaConfig")
    type(model).base_model_prefix, known = "nowhere", type(model).base_model_prefix
    try:
        with pytest.raises(ValueError, match=r"DiffLlamaForCausalLM is not supported: .*last_hidden_state"):
            LanguageModel(model)
    finally:
        type(model).base_model_prefix = known


def test_the_tokens_of_texts_stand_in_turn_and_see_their_own():
    """Values that are the tokens' places: a mean over what is seen, by hand."""
    view = causal_view(2, 3, torch.device("cpu"))
    value = in_turn(torch.tensor([[0.0, 1.0, 2.0], [10.0, 20.0, 30.0]]))[:, None, None].repeat(1, 1, 8)
    seen = view.attend(0, torch.zeros(6, 1, 8), torch.zeros(6, 1, 8), value, None, None)
    assert seen[:, 0, 0].tolist() == pytest.approx([0.0, 10.0, 0.5, 15.0, 1.0, 20.0])


def test_rows_without_a_slot_are_never_written():
    """The kernel knows addresses and nothing of what lies behind them."""
    cache, position = torch.zeros(1, 2, 2, 2, 4, 8), torch.zeros(3, dtype=torch.int64)
    k = torch.ones(3, 2, 8)
    with torch.no_grad(), pytest.raises((AssertionError, IndexError)):
        NextView(cache, position, position, 1).attend(0, k, k, k, None, None)
