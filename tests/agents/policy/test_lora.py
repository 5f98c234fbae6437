"""An adapter on a policy: exact, frozen beneath, removable; reference and critic on the same weights."""

import copy
import math

import pytest
import torch
from small import (
    ACTIONS,
    FAMILIES,
    hugging_face_model,
    language_model,
    logprobs_by_hand,
    make_rollout,
    prompts_of,
    ragged_rollout,
    write,
)

from agents.config import PolicyConfig, TrainConfig
from agents.grpo import GRPOConfig
from agents.master_weights import MasterWeights, trained_parameters
from agents.optim import OptimConfig, Optimizer, TokenLoss
from agents.policy import Policy, ValueHead
from agents.policy.lora import adapt, merge, sharing_weights, without_adapter
from agents.ppo import PPOConfig
from agents.setup import build_agent, build_policy
from rewards.preference.lora import LoraConfig

RANK, ALPHA = 3, 7.0
CONFIG = LoraConfig(rank=RANK, alpha=ALPHA)


def shaken(model, *, seed=1):
    """The adapter with a B that is not zero, so that it says something."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained_parameters(model).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2, generator=generator)
    return model


def adapted(family="llama", config=CONFIG):
    model = language_model(family)
    adapt(model, config, seed=0)
    return shaken(model)


def policy_of(model, **options):
    return Policy(model, num_actions=ACTIONS, **options)


def with_updates_by_hand(family):
    """The plain Hugging Face model with W + (alpha / rank) B A written into its weights."""
    model, parts = hugging_face_model(family), trained_parameters(adapted(family))
    weights = dict(model.named_parameters())
    for name, a in parts.items():
        if ".lora_A." in name:
            b = parts[name.replace("lora_A", "lora_B")]
            layer = name.removeprefix("model.").removesuffix(".lora_A.default.weight")
            update = ALPHA / RANK * b.detach() @ a.detach()
            weight = weights[f"{layer}.weight"]
            weight.data += update.T if family == "gpt2" else update  # GPT-2 keeps its matrices transposed
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapted_policy_scores_as_a_model_with_the_update_in_its_weights(family):
    rollout = ragged_rollout()
    with torch.no_grad():
        scored = policy_of(adapted(family)).evaluate(rollout).logprob
    expected = logprobs_by_hand(with_updates_by_hand(family), rollout)
    torch.testing.assert_close(scored, expected, atol=1e-5, rtol=0)
    assert (expected - logprobs_by_hand(hugging_face_model(family), rollout)).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_acting_and_scoring_agree_under_an_adapter(family):
    policy = policy_of(adapted(family))
    rollout = write(policy, prompts_of((5, 9, 5, 1, 12, 9))).rollout()
    with torch.no_grad():
        scored = policy.evaluate(rollout, with_entropy=True)
    torch.testing.assert_close(scored.logprob, rollout.sampled_logprob, atol=1e-4, rtol=0)
    torch.testing.assert_close(scored.entropy, rollout.entropy, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_changes_nothing_and_removing_one_gives_the_model_back(family):
    rollout, plain = ragged_rollout(), language_model(family)
    fresh, used = language_model(family), adapted(family)
    adapt(fresh, CONFIG, seed=0)
    with torch.no_grad():
        expected = policy_of(plain).evaluate(rollout).logprob
        assert torch.equal(policy_of(fresh).evaluate(rollout).logprob, expected)
        assert torch.equal(policy_of(without_adapter(used)).evaluate(rollout).logprob, expected)
        assert not torch.equal(policy_of(used).evaluate(rollout).logprob, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_is_a_plain_one_with_the_same_logits(family):
    rollout, model = ragged_rollout(), adapted(family)
    with torch.no_grad():
        expected = policy_of(model).evaluate(rollout).logprob
        merge(model)
        assert set(dict(model.named_parameters())) == set(dict(language_model(family).named_parameters()))
        torch.testing.assert_close(policy_of(model).evaluate(rollout).logprob, expected, atol=1e-5, rtol=0)


def test_a_merged_model_acts_with_what_was_merged():
    """peft changes the weights in a way that torch does not count: what was laid out for acting is out of date."""
    model = adapted("llama")
    prompts = prompts_of((3, 7))
    expected = write(policy_of(model), prompts)
    merge(model)
    assert write(policy_of(model), prompts).completions == expected.completions
    assert write(policy_of(language_model("llama")), prompts).completions != expected.completions


def test_models_that_share_weights_have_adapters_of_their_own():
    model = language_model()
    other = sharing_weights(model)
    adapt(model, CONFIG, seed=0)
    adapt(other, CONFIG, seed=1)
    shaken(model)
    rollout = ragged_rollout()
    with torch.no_grad():
        expected = policy_of(language_model()).evaluate(rollout).logprob
        assert torch.equal(policy_of(other).evaluate(rollout).logprob, expected)
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    for name, parameter in ours.items():
        assert (parameter is theirs[name]) == ("lora" not in name)


def test_the_seed_decides_the_adapter_and_nothing_else_does():
    def first(seed):
        model = language_model()
        adapt(model, CONFIG, seed=seed)
        return next(p.detach() for p in trained_parameters(model).values())

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a = first(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(a, first(0))
    assert not torch.equal(a, first(1))


def test_the_parameters_of_an_adapter_can_be_counted_by_hand():
    """Hidden size 16, 4 heads and 2 key/value heads of 4, 24 in the middle, two layers; rank (in + out) each."""
    attention = (16 + 16) + 2 * (16 + 8) + (16 + 16)
    mlp = 3 * (16 + 24)
    assert sum(p.numel() for p in trained_parameters(adapted()).values()) == 2 * RANK * (attention + mlp)
    some = adapted(config=LoraConfig(rank=2, targets=["q_proj", "layers.1.mlp.up_proj"]))
    assert sum(p.numel() for p in trained_parameters(some).values()) == 2 * (2 * (16 + 16) + (16 + 24))


def test_alpha_is_twice_the_rank_where_it_is_not_given():
    assert LoraConfig(rank=8).scaled_by == 16
    assert LoraConfig(rank=8, alpha=4).scaled_by == 4


@pytest.mark.parametrize("targets", ["qproj", ["q_proj", "qproj"], ["lm_head"], ["embed_tokens"], ["proj"]])
def test_a_target_that_is_no_linear_layer_is_named_with_those_that_are(targets):
    wrong = targets if isinstance(targets, str) else targets[-1]
    rule = rf"policy\.lora\.targets must name linear layers, {wrong} is none in LlamaForCausalLM; there are down_proj, "
    with pytest.raises(ValueError, match=rule):
        adapt(language_model(), LoraConfig(rank=2, targets=targets), seed=0)


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"rank": -1}, r"policy\.lora\.rank must be at least 0 \(0: no adapter\), got -1"),
        ({"alpha": 0.0}, r"policy\.lora\.alpha must be above 0 or null, got 0\.0"),
        ({"alpha": math.nan}, r"policy\.lora\.alpha must be above 0 or null, got nan"),
        ({"dropout": 0.1}, r"policy\.lora\.dropout must be 0, got 0\.1"),
        ({"targets": []}, r"policy\.lora\.targets must be all-linear or names of layers, got \[\]"),
        ({"targets": 3}, r"policy\.lora\.targets must be all-linear or names of layers, got 3"),
        ({"targets": [""]}, r"policy\.lora\.targets must be all-linear or names of layers, got \[''\]"),
    ],
)
def test_a_setting_out_of_range_is_named(setting, rule):
    with pytest.raises(ValueError, match=rule):
        PolicyConfig("tiny", lora=LoraConfig(**{"rank": 4, **setting}))


def test_no_adapter_is_what_null_and_rank_0_mean():
    assert PolicyConfig("tiny").adapter is None
    assert PolicyConfig("tiny", lora=None).adapter is None
    assert PolicyConfig("tiny", lora=LoraConfig(rank=1)).adapter == LoraConfig(rank=1)


# ---- training ----


def agent_of(agent, precision="float32"):
    """A whole agent on a tiny random model with an adapter, as a run builds it."""
    policy = PolicyConfig("tiny", precision=precision, device="cpu", lora=LoraConfig(rank=4))
    config = TrainConfig(agent, task={"_target_": "small.Echo"}, policy=policy, seed=4)
    return build_agent(config, build_policy(config, ACTIONS, say=lambda text: None))


OPTIM = OptimConfig(learning_rate=0.02, epochs=2)
AGENTS = {
    "grpo": GRPOConfig(kl_coef=0.1, optim=OPTIM),
    "ppo, shared": PPOConfig(kl_coef=0.1, optim=OPTIM),
    "ppo, separate": PPOConfig(kl_coef=0.1, critic="separate", optim=OPTIM),
}


def taught_rollout():
    """Four rows of two problems with different returns."""
    a, b = prompts_of((5, 9))
    responses = prompts_of((4, 1, 7, 3), seed=1)
    return make_rollout([a, a, b, b], responses, problem=[0, 0, 1, 1], returns=[1.0, 0.0, 0.5, 2.0])


def frozen_of(policy):
    return {name: p.detach().clone() for name, p in policy.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", AGENTS)
def test_only_adapters_and_the_value_head_change_and_the_reference_stays_the_initial_policy(kind, precision):
    agent, rollout = agent_of(AGENTS[kind], precision), taught_rollout()
    frozen, first = frozen_of(agent.policy), agent.policy.score(rollout, microbatch_tokens=64).logprob
    trained = {n: p.detach().clone() for n, p in trained_parameters(agent.policy).items()}
    for _ in range(3):
        agent.update(rollout.with_(sampled_logprob=agent.policy.score(rollout, microbatch_tokens=64).logprob))
    for name, before in frozen.items():
        assert torch.equal(dict(agent.policy.named_parameters())[name], before), name
    kinds = {"lora_A", "lora_B"} | ({"value_head"} if kind != "grpo" else set())
    assert all(any(part in name for part in kinds) for name in trained)
    changed = {n for n, p in trained_parameters(agent.policy).items() if not torch.equal(p, trained[n])}
    assert changed == set(trained)
    assert torch.equal(agent.reference.score(rollout, microbatch_tokens=64).logprob, first)
    assert not torch.equal(agent.policy.score(rollout, microbatch_tokens=64).logprob, first)


@pytest.mark.parametrize("kind", AGENTS)
def test_reference_and_critic_hold_no_second_copy_of_the_weights(kind):
    agent = agent_of(AGENTS[kind])
    models = [agent.policy.model, agent.reference.model, agent.policy.critic_model]
    plain = [{n: p for n, p in m.named_parameters() if "lora" not in n} for m in models if m is not None]
    storages = [{p.data_ptr() for p in parameters.values()} for parameters in plain]
    assert all(storage == storages[0] for storage in storages)
    assert not trained_parameters(agent.reference)


def test_a_critic_of_its_own_does_not_move_the_policy():
    """The value loss alone: the critic's adapter and the value head learn, the policy's adapter gets no gradient."""
    agent = agent_of(AGENTS["ppo, separate"])
    agent.policy.value_head.linear.weight.data.fill_(0.1)
    scores = agent.policy.evaluate(taught_rollout())
    (scores.value - 1).square().sum().backward()
    touched = {n for n, p in trained_parameters(agent.policy).items() if p.grad is not None and p.grad.any()}
    assert touched
    assert all(name.startswith(("critic_model.", "value_head.")) for name in touched)


@pytest.mark.parametrize("kind", AGENTS)
def test_the_optimizer_holds_masters_and_moments_of_the_adapters_alone(kind):
    agent = agent_of(AGENTS[kind], "bfloat16")
    agent.update(taught_rollout())
    optimizer: Optimizer = agent.optimizer
    masters = {**optimizer.actor.masters, **optimizer.critic.masters}
    assert all("lora" in name or "value_head" in name for name in masters)
    assert len(masters) == len(trained_parameters(agent.policy)) == len(optimizer.adam.state)
    assert all(master.dtype == torch.float32 for master in masters.values())
    for name, parameter in agent.policy.named_parameters():
        assert parameter.dtype == (torch.float32 if "value_head" in name else torch.bfloat16), name
        assert parameter.requires_grad or parameter.grad is None
    state = optimizer.state()
    size = sum(x.numel() for part in ("actor", "critic") for x in state[part].values())
    assert size == sum(p.numel() for p in trained_parameters(agent.policy).values())


def test_gradients_of_an_adapter_are_those_of_the_dense_update():
    """dL/dB = s G A^T and dL/dA = s B^T G, where G is the gradient of the merged weight and s = alpha / rank."""
    rollout, model = ragged_rollout(), adapted()
    dense = copy.deepcopy(model)
    merge(dense)
    dense.requires_grad_(True)
    for m in (model, dense):
        policy_of(m).evaluate(rollout).logprob.sum().backward()
    layer = "model.model.layers.1.mlp.up_proj"
    g = dense.get_parameter(f"{layer}.weight").grad
    a, b = (model.get_parameter(f"{layer}.lora_{x}.default.weight") for x in "AB")
    torch.testing.assert_close(b.grad, ALPHA / RANK * g @ a.detach().T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a.grad, ALPHA / RANK * b.detach().T @ g, atol=1e-4, rtol=1e-4)


def test_masters_of_an_adapter_keep_steps_that_bfloat16_would_lose():
    model = adapted()
    policy = policy_of(model, value_head=ValueHead(16, torch.device("cpu")))
    optimizer = Optimizer(policy, OptimConfig(learning_rate=1e-6), total_iterations=9, seed=0, dtype=torch.bfloat16)
    assert isinstance(optimizer.actor, MasterWeights)
    before = {name: master.detach().clone() for name, master in optimizer.actor.masters.items()}
    rollout = taught_rollout()
    optimizer.descend(lambda rows: TokenLoss(-policy.evaluate(rollout[rows]).logprob), rollout)
    for name, master in optimizer.actor.masters.items():
        assert 0 < float((master.detach() - before[name]).abs().max()) < 1.2e-6, name
