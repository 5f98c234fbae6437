"""`Policy.evaluate`: the log-probabilities of a full forward pass, however the rows are packed, ordered or padded."""

import numpy as np
import pytest
import torch
from small import (
    ACTIONS,
    FAMILIES,
    PADDED,
    distance,
    hugging_face_model,
    language_model,
    logprobs_by_hand,
    make_rollout,
    prompts_of,
    ragged_rollout,
    small_policy,
    widened,
    with_critic,
    write,
)

from agents.policy.packing import microbatches, pack

RAGGED = (5, 9, 5, 1, 12, 9)


def gradients(policy, rollout, *, weight=None):
    """Of a weighted sum of log-probabilities (and values), every weight different."""
    policy.zero_grad()
    scores = policy.evaluate(rollout)
    weight = torch.linspace(0.5, 1.5, rollout.mask.numel()).view(rollout.mask.shape) if weight is None else weight
    total = (scores.logprob * weight).sum()
    if scores.value is not None:
        total = total + (scores.value * weight).sum()
    total.backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_equal_a_full_forward_pass(family):
    rollout = ragged_rollout()
    with torch.no_grad():
        scored = small_policy(family).evaluate(rollout).logprob
    torch.testing.assert_close(scored, logprobs_by_hand(hugging_face_model(family), rollout), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_sampled_is_scored_as_the_sampler_saw_it(family):
    policy = small_policy(family)
    rollout = write(policy, prompts_of(RAGGED)).rollout()
    with torch.no_grad():
        scored = policy.evaluate(rollout, with_entropy=True)
    torch.testing.assert_close(scored.logprob, rollout.sampled_logprob, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored.entropy, rollout.entropy, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_shared_prompts_change_neither_log_probabilities_nor_gradients(family, monkeypatch):
    policy, rollout = small_policy(family), ragged_rollout()
    shared, shared_gradient = policy.evaluate(rollout).logprob, gradients(policy, rollout)
    monkeypatch.setattr("agents.policy.policy.pack", lambda r, **options: pack(r, share_prompts=False, **options))
    torch.testing.assert_close(policy.evaluate(rollout).logprob, shared, atol=1e-5, rtol=0)
    assert distance(gradients(policy, rollout), shared_gradient) < 1e-4 * largest(shared_gradient)


def largest(gradient):
    return max(float(g.abs().max()) for g in gradient.values())


def test_a_shared_prompt_stands_in_the_packed_row_once():
    """Prompts of 5, 9 and 1 tokens; responses of 4 1 7 3 2 6, less each one's last token: 17."""
    assert len(pack(ragged_rollout()).tokens) == 5 + 9 + 1 + 17
    assert len(pack(ragged_rollout(), share_prompts=False).tokens) == 2 * (5 + 9 + 1) + 17
    assert len(pack(ragged_rollout(), with_last=True).tokens) == 5 + 9 + 1 + 23


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_order_of_rows_changes_nothing(family):
    policy, rollout = small_policy(family), ragged_rollout()
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    weight = torch.linspace(0.5, 1.5, rollout.mask.numel()).view(rollout.mask.shape)
    expected = gradients(policy, rollout, weight=weight)
    shuffled = policy.evaluate(rollout[order]).logprob
    torch.testing.assert_close(shuffled, policy.evaluate(rollout).logprob[order], atol=1e-5, rtol=0)
    assert distance(gradients(policy, rollout[order], weight=weight[order]), expected) < 1e-4 * largest(expected)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "bloom"])
def test_activations_that_are_computed_twice_give_the_same_gradient(family):
    policy, rollout = with_critic(family), ragged_rollout()
    expected = gradients(policy, rollout)
    policy.model.checkpoint_activations()
    assert distance(gradients(policy, rollout), expected) < 1e-5 * largest(expected)


def test_checkpointed_layers_keep_less_for_the_backward_pass():
    def kept(policy):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            policy.evaluate(ragged_rollout())
        return sum(sizes)

    policy = small_policy()
    before = kept(policy)
    policy.model.checkpoint_activations()
    assert kept(policy) < before / 2


def test_a_model_without_such_layers_says_so():
    model = language_model("bloom")
    model.model.transformer.h = torch.nn.ModuleList()
    with pytest.raises(ValueError, match=r"checkpoint_activations=true: BloomForCausalLM does not offer it"):
        model.checkpoint_activations()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in PADDED])
def test_in_bfloat16_sampler_and_scoring_differ_by_its_rounding_and_no_more(family):
    """The same 400 tokens; a token's log-probability has a rounding error of about 0.4 % of its logits, which reach 10
    here. A wrong position, a lost key or a stale weight would be off by whole nats."""
    policy = small_policy(family).to(torch.bfloat16)
    rollout = write(policy, prompts_of((5, 9, 5, 1, 12, 9) * 6), budget=20).rollout()
    with torch.no_grad():
        scored = policy.evaluate(rollout).logprob
    difference = (scored - rollout.sampled_logprob)[rollout.mask].abs()
    assert len(difference) > 250
    assert float(difference.mean()) < 0.05
    assert float(difference.quantile(0.9)) < 0.12
    assert float(difference.max()) < 1.0
    assert float(difference.mean()) > 0  # bfloat16, not float32, was measured


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_columns_of_padding_change_nothing(family):
    policy, rollout = small_policy(family), ragged_rollout()
    wide = widened(rollout, 5)
    torch.testing.assert_close(
        policy.evaluate(wide).logprob[:, :7], policy.evaluate(rollout).logprob, atol=1e-5, rtol=0
    )
    weight = torch.ones(6, 7)
    expected = gradients(policy, rollout, weight=weight)
    found = gradients(policy, wide, weight=torch.nn.functional.pad(weight, (0, 5)))
    assert distance(found, expected) < 1e-4 * largest(expected)


@pytest.mark.parametrize(("family", "garbage"), [("llama", -5), ("llama", 10**6), ("gemma2", 11)])
def test_tokens_beyond_the_length_are_not_read(family, garbage):
    policy, rollout = small_policy(family), ragged_rollout()
    beyond = torch.arange(rollout.tokens.shape[1]) >= rollout.length[:, None]
    dirty = rollout.with_(tokens=rollout.tokens.masked_fill(beyond, garbage))
    torch.testing.assert_close(policy.evaluate(dirty).logprob, policy.evaluate(rollout).logprob, atol=1e-6, rtol=0)


def test_nothing_is_reported_outside_the_mask():
    policy, rollout = with_critic(), ragged_rollout()
    scores = policy.evaluate(rollout, with_entropy=True)
    for x in (scores.logprob, scores.entropy, scores.value):
        assert not x[~rollout.mask].any()
        assert x[rollout.mask].all()


@pytest.mark.parametrize("max_tokens", [1, 20, 10_000])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_scoring_in_microbatches_equals_one_pass(family, max_tokens):
    policy, rollout = with_critic(family), ragged_rollout()
    with torch.no_grad():
        whole = policy.evaluate(rollout, with_final_value=True)
    scored = policy.score(rollout, microbatch_tokens=max_tokens, with_final_value=True)
    for name in ("logprob", "value", "final_value"):
        torch.testing.assert_close(getattr(scored, name), getattr(whole, name), atol=1e-5, rtol=0)


def test_microbatches_hold_every_row_once_and_count_a_shared_prompt_once():
    """Groups of 2 rows cost 5+4+7, 9+1+6 and 1+3+2 tokens: with at most 16 each group is one part."""
    rollout = ragged_rollout()
    assert [part.tolist() for part in microbatches(rollout, 16)] == [[0, 2], [1, 5], [3, 4]]
    assert [part.tolist() for part in microbatches(rollout, 1)] == [[0], [2], [1], [5], [3], [4]]
    assert sorted(torch.cat(microbatches(rollout, 22)).tolist()) == list(range(6))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("separate", [False, True])
def test_values_are_read_from_the_states_in_which_tokens_were_chosen(family, separate):
    """By hand: the head over transformers' own hidden states, at the token before each policy token."""
    policy, rollout = with_critic(family, separate=separate), ragged_rollout()
    model = hugging_face_model(family, seed=9 if separate else 0)
    with torch.no_grad():
        scores = policy.evaluate(rollout, with_final_value=True)
        for i in range(len(rollout)):
            text = rollout.tokens[i, : rollout.length[i]]
            value = policy.value_head(model.base_model(input_ids=text[None]).last_hidden_state[0])
            assert float(scores.final_value[i]) == pytest.approx(float(value[-1]), abs=1e-4)
            for a in rollout.mask[i].nonzero()[:, 0].tolist():
                assert float(scores.value[i, a]) == pytest.approx(
                    float(value[rollout.prompt_length[i] + a - 1]), abs=1e-4
                )


def test_values_come_with_or_without_the_final_one():
    policy, rollout = with_critic(), ragged_rollout()
    scores = policy.evaluate(rollout)
    assert scores.final_value is None
    torch.testing.assert_close(scores.value, policy.evaluate(rollout, with_final_value=True).value, atol=1e-5, rtol=0)
    assert small_policy().evaluate(rollout, with_final_value=True).final_value is None


def value_gradient(policy):
    policy.zero_grad()
    policy.evaluate(ragged_rollout()).value.sum().backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}


def test_the_value_loss_trains_the_shared_trunk_only_when_it_may():
    assert any(name.startswith("model.") for name in value_gradient(with_critic()))
    assert set(value_gradient(with_critic(value_gradient=False))) == {
        "value_head.linear.weight",
        "value_head.linear.bias",
    }


def test_a_separate_critic_is_trained_and_the_policy_is_not():
    names = value_gradient(with_critic(separate=True))
    assert any(name.startswith("critic_model.") for name in names)
    assert not any(name.startswith("model.") for name in names)


def test_a_new_critic_knows_nothing():
    from agents.policy import ValueHead

    policy = small_policy(value_head=ValueHead(16, torch.device("cpu")))
    assert not policy.evaluate(ragged_rollout()).value.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_a_full_forward_pass(family):
    policy, rollout = small_policy(family), ragged_rollout()
    weight = torch.linspace(0.5, 1.5, rollout.mask.numel()).view(rollout.mask.shape)
    found = gradients(policy, rollout, weight=weight)
    model = hugging_face_model(family)
    total = 0.0
    for i in range(len(rollout)):
        text = rollout.tokens[i, : rollout.length[i]]
        logprob = model(input_ids=text[None], use_cache=False).logits[0, :, :ACTIONS].log_softmax(-1)
        place = int(rollout.prompt_length[i]) + rollout.mask[i].nonzero()[:, 0]
        total = total + (logprob[place - 1, text[place]] * weight[i][rollout.mask[i]]).sum()
    total.backward()
    expected = {f"model.model.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) == set(expected)
    assert distance(found, expected) < 1e-4 * largest(expected)


def test_a_head_in_chunks_is_the_head_at_once(monkeypatch):
    policy, rollout = small_policy(), ragged_rollout()
    whole = gradients(policy, rollout)
    monkeypatch.setattr("agents.policy.head.CHUNK_ROWS", 4)
    assert distance(gradients(policy, rollout), whole) < 1e-5 * largest(whole)


@pytest.mark.parametrize("family", PADDED)
def test_the_padded_path_reads_each_row_where_it_stands(family):
    """Rows of different lengths, so that no index works by accident."""
    rollout = make_rollout(prompts_of((1, 12, 6)), prompts_of((9, 1, 4), seed=2))
    with torch.no_grad():
        scored = small_policy(family).evaluate(rollout).logprob
    np.testing.assert_allclose(scored, logprobs_by_hand(hugging_face_model(family), rollout), atol=1e-5)
