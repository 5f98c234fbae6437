"""What must not matter, does not: the loss, the gradient and every metric of an update stay what they are.

However a minibatch is cut into microbatches, its rows ordered, its columns padded, its groups named, whatever stands in
slots that nobody may read. A Rollout is right-padded by its definition; a prompt that is padded on the left cannot be
written as one. That any number of environment rows collects the same Rollout is tested in `test_collect`.
"""

import pytest
import torch
from small import (
    distance,
    make_rollout,
    prompts_of,
    small_policy,
    soiled,
    weights_of,
    widened,
    with_critic,
)

from agents.grpo import GRPO, GRPOConfig
from agents.losses import AGGREGATIONS
from agents.optim import OptimConfig, Optimizer
from agents.ppo import PPO, PPOConfig
from agents.trpo import TRPO, TRPOConfig
from textenv.types import FinishReason

LARGE = 1e-3
"""A learning rate whose step is far above every tolerance here."""


def seven_rows(**fields):
    """Three problems of 3, 2 and 2 rows, lengths from 1 to 8, one row with tokens that are not the policy's; two rows
    that the budget cut."""
    a, b, c = prompts_of((5, 9, 1))
    responses = prompts_of((4, 1, 8, 3, 2, 6, 5), seed=1)
    masks = [[1] * len(r) for r in responses]
    masks[2] = [1, 1, 0, 0, 1, 1, 0, 1]
    returns = [1.0, 0.0, 0.5, 0.2, 0.9, 0.3, 1.0]
    ended, cut = int(FinishReason.EOS), int(FinishReason.BUDGET)
    fields = {
        "returns": returns,
        "problem": [0, 1, 0, 2, 2, 1, 0],
        "finish_reason": torch.tensor([ended, ended, ended, cut, ended, ended, cut]),
        "budget": torch.full((7,), 8),
    } | fields
    return make_rollout([a, b, a, c, c, b, a], responses, masks=masks, **fields)


def grpo(policy=None, *, reference=None, **settings):
    policy = policy or small_policy()
    optim = OptimConfig(**{"learning_rate": LARGE} | settings.pop("optim", {}))
    config = GRPOConfig(optim=optim, **settings)
    return GRPO(config, policy, Optimizer(policy, optim, total_iterations=10, seed=0), reference)


def ppo(policy=None, *, reference=None, **settings):
    policy = policy or with_critic()
    optim = OptimConfig(**{"learning_rate": LARGE, "epochs": 2, "minibatch_rows": 4} | settings.pop("optim", {}))
    config = PPOConfig(**{"optim": optim, "entropy_coef": 0.01} | settings)
    return PPO(config, policy, Optimizer(policy, optim, total_iterations=10, seed=0), reference)


def trpo(policy=None, *, reference=None, **settings):
    policy = policy or with_critic()
    optim = OptimConfig(**{"learning_rate": LARGE, "epochs": 2, "minibatch_rows": 4} | settings.pop("optim", {}))
    config = TRPOConfig(optim=optim, **settings)
    return TRPO(config, policy, Optimizer(policy, optim, total_iterations=10, seed=0), reference)


def held(make):
    """The same agent with a reference."""
    return lambda **settings: make(reference=small_policy(seed=3), **settings)


def learned(make, rollout, **settings):
    """Weights and metrics after one update, from the same start."""
    agent = make(**settings)
    before = weights_of(agent.policy)
    metrics = agent.update(rollout)
    after = weights_of(agent.policy)
    assert distance(before, after) > LARGE / 2
    return after, metrics


AGENTS = {
    "grpo": (grpo, {}),
    "grpo two epochs": (grpo, {"optim": {"epochs": 2, "minibatch_rows": 3}}),
    "grpo kl in loss": (held(grpo), {"kl_coef": 0.1}),
    "grpo kl in reward": (held(grpo), {"kl_coef": 0.1, "kl_in": "reward", "scale_advantages": "batch"}),
    "grpo exact kl": (held(grpo), {"kl_coef": 0.1, "kl_in": "both", "scale_advantages": "none"}),
    "grpo batch std": (grpo, {"baseline": "batch", "scale_advantages": "batch"}),
    "grpo truncation mask": (grpo, {"truncation": "mask"}),
    "grpo entropy bonus": (grpo, {"entropy_coef": 0.05}),
    "gspo": (grpo, {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "optim": {"epochs": 2}}),
    "cispo": (grpo, {"objective": "cispo", "clip_low": 1.0, "clip_high": 4.0, "optim": {"epochs": 2}}),
    "two-sided": (grpo, {"ratio_cap": 2.0, "optim": {"epochs": 2}}),
    "rloo": (held(grpo), {"baseline": "leave_one_out", "scale_advantages": "none", "kl_coef": 0.1, "kl_in": "reward"}),
    "reinforce++": (
        held(grpo),
        {
            "baseline": "none",
            "scale_advantages": "none",
            "returns": "to_go",
            "whiten_advantages": True,
            "kl_coef": 0.1,
            "kl_in": "reward",
        },
    ),
    "reinforce++ with a baseline": (
        held(grpo),
        {"scale_advantages": "none", "whiten_advantages": True, "kl_coef": 0.1, "kl_estimator": "k2"},
    ),
    "ppo": (ppo, {}),
    "ppo with a reference": (held(ppo), {"kl_coef": 0.1}),
    "ppo exact kl": (held(ppo), {"kl_coef": 0.1, "kl_in": "loss", "kl_estimator": "full"}),
    "ppo normalized and whitened": (
        ppo,
        {"normalize_values": True, "whiten_rewards": "tokens", "reward_clip": 0.8, "ratio_cap": 2.0},
    ),
    "ppo truncation mask": (ppo, {"truncation": "mask"}),
    "ppo truncation penalty": (ppo, {"truncation": "penalty", "truncation_penalty": 0.5}),
    "ppo separate critic": (lambda **s: ppo(with_critic(separate=True), **s), {}),
    "ppo penalty": (ppo, {"objective": "penalty"}),
    "trpo": (trpo, {}),
}
every_agent = pytest.mark.parametrize(("make", "settings"), AGENTS.values(), ids=list(AGENTS))


def pair(one, other, *, weights=3e-6, numbers=1e-5):
    """Two results of `learned` agree, in every weight and every metric."""
    assert distance(one[0], other[0]) < weights
    assert other[1] == pytest.approx(one[1], abs=numbers, rel=1e-4)


@every_agent
def test_the_split_into_microbatches_changes_nothing(make, settings):
    """At most 1 token (a row each), 20 (some rows) and all at once; gradients are not divided by a count of parts."""
    optim = settings.get("optim", {})
    one, some, whole = (
        learned(make, seven_rows(), **settings | {"optim": optim | {"microbatch_tokens": n}}) for n in (1, 20, 9999)
    )
    pair(whole, one, weights=2e-5, numbers=1e-4)
    pair(whole, some, weights=2e-5, numbers=1e-4)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("make", [grpo, ppo])
def test_so_it_is_for_every_aggregation(make, aggregation):
    """And no other order of rows, no column of padding (the divisor of `constant` is the budget), no NaN where nothing
    is read changes anything."""
    whole = learned(make, seven_rows(), optim={"aggregation": aggregation})
    for tokens in (1, 20):
        split = learned(make, seven_rows(), optim={"microbatch_tokens": tokens, "aggregation": aggregation})
        pair(whole, split, weights=2e-5, numbers=1e-4)
    pair(whole, learned(make, widened(seven_rows(), 6), optim={"aggregation": aggregation}))
    shuffled = seven_rows()[torch.tensor([3, 6, 1, 0, 5, 2, 4])]
    pair(whole, learned(make, shuffled, optim={"aggregation": aggregation}), weights=2e-5, numbers=1e-4)
    agent = make(optim={"aggregation": aggregation})
    assert agent.update(soiled(seven_rows(), agent.policy)) == whole[1]
    assert distance(weights_of(agent.policy), whole[0]) == 0


@every_agent
def test_the_names_of_the_groups_and_where_their_rows_stand_change_nothing(make, settings):
    """Problems 0, 1, 2 as 70, 5, 900: one minibatch, since minibatches are drawn by name."""
    settings = settings | {"optim": settings.get("optim", {}) | {"minibatch_rows": None}}
    renamed = seven_rows().with_(problem=torch.tensor([70, 5, 900])[seven_rows().problem])
    order = renamed.problem.argsort(stable=True)
    pair(learned(make, seven_rows(), **settings), learned(make, renamed[order], **settings), weights=2e-5, numbers=1e-4)


@every_agent
def test_columns_of_padding_change_nothing(make, settings):
    expected, metrics = learned(make, seven_rows(), **settings)
    found, wide_metrics = learned(make, widened(seven_rows(), 6), **settings)
    assert distance(found, expected) < 1e-6
    assert wide_metrics == pytest.approx(metrics, abs=1e-5)


@every_agent
def test_the_order_of_rows_changes_nothing(make, settings):
    """With one minibatch; minibatches are drawn by problem, so the order inside a problem never counts."""
    settings = settings | {"optim": {"epochs": 2, "minibatch_rows": None}}
    order = torch.tensor([3, 6, 1, 0, 5, 2, 4])
    expected, metrics = learned(make, seven_rows(), **settings)
    found, shuffled = learned(make, seven_rows()[order], **settings)
    assert distance(found, expected) < 2e-5
    assert shuffled == pytest.approx(metrics, abs=1e-4)


@every_agent
def test_what_stands_where_nothing_is_read_changes_nothing(make, settings):
    """NaN in every masked slot, nonsense beyond the lengths."""
    expected, metrics = learned(make, seven_rows(), **settings)
    agent = make(**settings)
    found = agent.update(soiled(seven_rows(), agent.policy))
    assert distance(weights_of(agent.policy), expected) == 0
    assert found == metrics


def with_invalid_rows():
    """The seven rows and three whose grader failed, in the same problems."""
    b, c = prompts_of((9, 1), seed=0)[0], prompts_of((1,))[0]
    rollout = seven_rows()
    extra = seven_rows()[torch.tensor([0, 3, 5])].with_(valid=torch.zeros(3, dtype=torch.bool))
    assert b != c
    joined = {
        name: torch.cat([getattr(rollout, name), getattr(extra, name)])
        for name in (f for f in rollout.__slots__ if getattr(rollout, f) is not None)
    }
    return rollout.with_(**joined)


@every_agent
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_invalid_rows_change_nothing(make, settings, aggregation):
    settings = settings | {"optim": {"minibatch_rows": None, "epochs": 1, "aggregation": aggregation}}
    expected, metrics = learned(make, seven_rows(), **settings)
    found, more = learned(make, with_invalid_rows(), **settings)
    assert distance(found, expected) < 1e-6
    assert more == pytest.approx(metrics, abs=1e-5)
    agent = make(**settings)
    assert agent.update(soiled(with_invalid_rows(), agent.policy)) == pytest.approx(metrics, abs=1e-5)


@every_agent
def test_a_rollout_without_a_valid_row_teaches_nothing(make, settings):
    agent = make(**settings)
    before = weights_of(agent.policy)
    metrics = agent.update(seven_rows(valid=torch.zeros(7, dtype=torch.bool)))
    assert distance(before, weights_of(agent.policy)) == 0
    assert metrics["optimizer_steps"] == 0


@pytest.mark.parametrize("name", ["grpo truncation mask", "ppo truncation mask", "ppo truncation penalty"])
def test_what_is_done_about_cut_rows_changes_something(name):
    """Else the tests above would say nothing about it."""
    make, settings = AGENTS[name]
    assert distance(learned(make, seven_rows(), **settings)[0], learned(make, seven_rows())[0]) > 1e-5


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 7, 100])
@pytest.mark.parametrize("make", [grpo, ppo])
def test_nothing_need_be_divisible(make, rows):
    """Problems of 3, 2 and 2 rows stay together, so a minibatch of 4 holds 4 or 5 rows and the last what is left."""
    agent = make(optim={"minibatch_rows": rows, "epochs": 1})
    batches = list(agent.optimizer._minibatches(seven_rows()))
    assert sorted(torch.cat(batches).tolist()) == list(range(7))
    assert all(len(batch) >= rows for batch in batches[:-1])
    assert agent.update(seven_rows())["optimizer_steps"] == len(batches)
