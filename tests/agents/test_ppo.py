"""PPO against numbers worked out by hand, on a policy whose log-probabilities and values are given."""

import math

import pytest
import torch
from small import distance, make_rollout, prompts_of, small_policy, weights_of, with_critic
from test_grpo import Given

from agents.kl import k1
from agents.optim import OptimConfig, Optimizer
from agents.ppo import PPO, PPOConfig


def agent_of(policy=None, reference=None, **settings):
    policy = policy or with_critic()
    config = PPOConfig(**settings)
    return PPO(config, policy, Optimizer(policy, config.optim, total_iterations=1, seed=0), reference)


def one_answer(tokens=2, **fields):
    return make_rollout(prompts_of((3,)), [[9, 10, 11, 12][:tokens]], **fields)


def row(*numbers):
    return torch.tensor([numbers])


def plain(**settings):
    return {"whiten_advantages": False, "gamma": 0.99, "lam": 0.95} | settings


def test_deltas_advantages_and_targets_of_the_worked_example():
    """gamma 0.99, lambda 0.95, reward 0.5 at the end, V 0.25 and 0.3: deltas 0.99 x 0.3 - 0.25 = 0.047 and
    0.5 - 0.3 = 0.2; advantages 0.047 + 0.9405 x 0.2 = 0.2351 and 0.2; targets A + V."""
    rollout = one_answer(returns=[0.5], value=row(0.25, 0.3), final_value=torch.zeros(1))
    advantage, target = agent_of(**plain()).advantages(rollout)
    assert advantage[0].tolist() == pytest.approx([0.2351, 0.2])
    assert target[0].tolist() == pytest.approx([0.4851, 0.5])


def test_the_kl_to_the_reference_is_paid_in_the_reward():
    """R_RM 0.8, KL 0.05, beta 6: 0.8 - 6 x 0.05 = 0.5, the reward of the worked example."""
    rollout = one_answer(
        1,
        returns=[0.8],
        value=row(0.0),
        final_value=torch.zeros(1),
        old_logprob=row(-1.0),
        reference_logprob=row(-1.05),
    )
    advantage, _ = agent_of(reference=small_policy(seed=3), **plain(kl_coef=6.0)).advantages(rollout)
    assert advantage.item() == pytest.approx(0.5)


def test_the_kl_is_paid_on_every_token_and_the_score_on_the_last():
    """Beta 1, KL 0.1 and 0.2, score 1, V = 0, gamma = lambda = 1: rewards -0.1 and 0.8, advantages 0.7 and 0.8."""
    rollout = one_answer(
        returns=[1.0],
        value=row(0.0, 0.0),
        final_value=torch.zeros(1),
        old_logprob=row(-1.0, -1.0),
        reference_logprob=row(-1.1, -1.2),
    )
    agent = agent_of(reference=small_policy(seed=3), **plain(kl_coef=1.0, gamma=1.0, lam=1.0))
    assert agent.advantages(rollout)[0][0].tolist() == pytest.approx([0.7, 0.8])


def test_what_was_truncated_bootstraps_and_what_terminated_does_not():
    """gamma 0.5, V 0 and 0 and then 0.8: the truncated row's last delta is 0.5 + 0.5 x 0.8 = 0.9."""
    rollout = make_rollout(
        prompts_of((3, 4)),
        [[9, 10], [9, 10]],
        returns=[0.5, 0.5],
        value=torch.zeros(2, 2),
        final_value=torch.tensor([0.8, 0.8]),
        truncated=torch.tensor([True, False]),
    )
    agent = agent_of(**plain(gamma=0.5, lam=0.0))
    assert agent.advantages(rollout)[0][:, 1].tolist() == pytest.approx([0.9, 0.5])
    terminal = agent_of(**plain(gamma=0.5, lam=0.0, truncation="terminal"))
    assert terminal.advantages(rollout)[0][:, 1].tolist() == pytest.approx([0.5, 0.5])


def test_injected_tokens_neither_pay_nor_decay():
    """The worked example with a tool's answer of two tokens between the policy's two."""
    rollout = make_rollout(
        prompts_of((3,)),
        [[9, 20, 21, 10]],
        masks=[[1, 0, 0, 1]],
        returns=[0.5],
        value=row(0.25, 9.0, 9.0, 0.3),
        final_value=torch.zeros(1),
    )
    advantage, target = agent_of(**plain()).advantages(rollout)
    assert advantage[0].tolist() == pytest.approx([0.2351, 0, 0, 0.2])
    assert target[0].tolist() == pytest.approx([0.4851, 0, 0, 0.5])


def test_advantages_are_whitened_over_the_valid_tokens():
    """Advantages 1, 3 and 5 of valid rows: mean 3, population std sqrt(8/3); the invalid row is 0."""
    rollout = make_rollout(
        prompts_of((1, 2, 3, 4)),
        [[9], [10], [11], [12]],
        returns=[1.0, 3.0, 5.0, 1000.0],
        value=torch.zeros(4, 1),
        final_value=torch.zeros(4),
        valid=torch.tensor([True, True, True, False]),
    )
    advantage, _ = agent_of(gamma=1.0, lam=1.0).advantages(rollout)
    std = math.sqrt(8 / 3)
    assert advantage[:, 0].tolist() == pytest.approx([-2 / std, 0, 2 / std, 0])


def loss_of(policy, advantage, target, *, old=-2.1, old_value=0.0, **settings):
    tokens = len(advantage[0])
    rollout = one_answer(tokens, old_logprob=torch.full((1, tokens), old), value=torch.full((1, tokens), old_value))
    result = agent_of(policy, **settings).loss(rollout, torch.tensor(advantage), torch.tensor(target))
    result.loss.sum().backward()
    return result


def test_the_loss_is_objective_plus_value_loss_less_entropy():
    """Ratio e^0.3 = 1.35, clipped to 1.2, A 0.2: -0.24. Value 0.5 against 0.9: 0.16 / 2 = 0.08, half of it.
    Entropy 1.5 at 0.01: -0.015. Together -0.24 + 0.04 - 0.015 = -0.215."""
    policy = Given([[-1.8]], value=[[0.5]], entropy=[[1.5]])
    result = loss_of(policy, [[0.2]], [[0.9]], value_coef=0.5, entropy_coef=0.01)
    assert result.loss.item() == pytest.approx(-0.215)
    assert result.report["policy_loss"].item() == pytest.approx(-0.24)
    assert result.report["value_loss"].item() == pytest.approx(0.08)
    assert result.report["clip_ratio"].item() == 1
    assert result.report["approx_kl"].item() == pytest.approx(math.exp(0.3) - 1 - 0.3)
    assert policy.logprob.grad.item() == 0
    assert policy.value.grad.item() == pytest.approx(0.5 * (0.5 - 0.9))


@pytest.mark.parametrize(
    ("estimator", "penalty", "slope"),
    [
        # d = -1.8 + 2 = .2; the ratio is e^.3: weighted k3 has the slope r (k3 + 1 - e^-d)
        (None, math.exp(0.3) * (math.exp(-0.2) - 0.8), math.exp(0.3) * (math.exp(-0.2) - 0.8 + 1 - math.exp(-0.2))),
        ("k2", 0.02, 0.2),
        ("full", 0.7, 0.0),
    ],
)
def test_the_kl_in_the_loss_is_weighed_by_the_controller_and_not_paid(estimator, penalty, slope):
    policy = Given([[-1.8]], value=[[0.0]], kl=[[0.7]])
    rollout = one_answer(
        1,
        old_logprob=torch.full((1, 1), -2.1),
        value=torch.zeros(1, 1),
        final_value=torch.zeros(1),
        reference_logprob=torch.full((1, 1), -2.0),
    )
    agent = agent_of(policy, small_policy(seed=3), kl_coef=0.5, kl_in="loss", kl_estimator=estimator)
    paid = agent.advantages(rollout)[1]
    assert paid.tolist() == rollout.reward.tolist()
    result = agent.loss(rollout, torch.zeros(1, 1), torch.zeros(1, 1))
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(0.5 * penalty, abs=1e-6)
    assert policy.logprob.grad.item() == pytest.approx(0.5 * slope, abs=1e-6)


def test_an_update_with_the_exact_kl_in_both_places_and_a_renewed_reference():
    reference = small_policy(seed=3)
    before = weights_of(reference)
    agent = agent_of(with_critic(), reference, kl_coef=0.1, kl_in="both", reference_every=1, **FAST)
    metrics = agent.update(answers())
    assert metrics["kl"] > 0
    assert distance(before, weights_of(reference)) > 0
    assert distance(weights_of(agent.policy.model), weights_of(reference.model)) == 0
    assert torch.equal(
        agent.state()["reference"][next(iter(agent.state()["reference"]))], next(reference.model.parameters())
    )


def test_without_a_bonus_no_entropy_is_computed():
    assert loss_of(Given([[-2.1]], value=[[0.0]]), [[0.2]], [[0.0]]).loss.item() == pytest.approx(-0.2)


def test_clipped_and_huber_value_losses():
    """Value 0.5, before 0.1, target 0.9: kept within 0.2 of 0.1 it is 0.3, and 0.6^2 / 2 = 0.18 is the larger.
    Huber of an error of 3 is 3 - 1/2."""
    clipped = loss_of(Given([[-2.1]], value=[[0.5]]), [[0.0]], [[0.9]], old_value=0.1, value_clip=0.2, value_coef=1.0)
    assert clipped.loss.item() == pytest.approx(0.18)
    huber = loss_of(Given([[-2.1]], value=[[3.0]]), [[0.0]], [[0.0]], value_loss="huber", value_coef=1.0)
    assert huber.loss.item() == pytest.approx(2.5)


def test_the_penalty_objective_is_the_ratio_and_a_kl_to_the_old_policy():
    """Ratio r = e^0.3 unclipped: -0.2 r + beta (r - 1 - 0.3); slope -0.2 r + beta (r - 1)."""
    policy = Given([[-1.8]], value=[[0.0]])
    result = loss_of(policy, [[0.2]], [[0.0]], objective="penalty", penalty_coef=3.0)
    r = math.exp(0.3)
    assert result.loss.item() == pytest.approx(-0.2 * r + 3 * (r - 1.3), abs=1e-6)
    assert policy.logprob.grad.item() == pytest.approx(-0.2 * r + 3 * (r - 1), abs=1e-6)


def answers(count=16, **fields):
    prompts = prompts_of((3, 5)) * (count // 2)
    tokens = [[8 + k % 5, 9, 10][: 1 + k % 3] for k in range(count)]
    return make_rollout(
        prompts, tokens, problem=[k % 2 for k in range(count)], returns=[k / count for k in range(count)]
    )


FAST = {"optim": OptimConfig(learning_rate=0.01, epochs=3)}


@pytest.mark.parametrize("controller", ["halving", "horizon"])
def test_beta_rises_when_the_kl_is_above_its_target_and_falls_when_it_is_below(controller):
    rollout = answers()
    policy, reference = with_critic(seed=3), small_policy()
    with torch.no_grad():
        kl = k1(policy.evaluate(rollout).logprob, reference.evaluate(rollout).logprob)[rollout.mask].sum() / 16
    adapt = {"kl_coef": 0.1, "kl_controller": controller, "kl_horizon": 160}
    assert float(kl) > 0.1
    for target, factor in (
        (float(kl) / 4, {"halving": 2.0, "horizon": 1.02}),
        (float(kl) * 4, {"halving": 0.5, "horizon": 0.98}),
    ):
        agent = agent_of(with_critic(seed=3), reference, **adapt, kl_target=target)
        metrics = agent.update(rollout)
        assert metrics["kl_coef"] == 0.1
        assert metrics["kl/row"] == pytest.approx(float(kl), rel=1e-4)
        assert agent.kl.beta == pytest.approx(0.1 * factor[controller])


def test_the_penalty_is_doubled_after_a_large_step_and_halved_after_a_small_one():
    for rate, factor in ((0.03, 2.0), (1e-7, 0.5)):
        agent = agent_of(objective="penalty", optim=OptimConfig(learning_rate=rate, epochs=3))
        agent.update(answers())
        assert agent.penalty.beta == factor


def test_nothing_adapts_where_every_grader_failed():
    rollout = answers().with_(valid=torch.zeros(16, dtype=torch.bool))
    agent = agent_of(reference=small_policy(seed=3), objective="penalty", kl_coef=0.1, kl_controller="halving")
    agent.update(rollout)
    assert (agent.kl.beta, agent.penalty.beta) == (0.1, 1.0)


@pytest.mark.parametrize("limit", ["max_kl_old", "max_kl_reference"])
def test_the_update_ends_early_when_the_policy_has_gone_too_far(limit):
    settings = {"kl_coef": 0.01} if limit == "max_kl_reference" else {}
    reference = small_policy() if settings else None
    free = agent_of(reference=reference, **settings, optim=OptimConfig(learning_rate=0.01, epochs=8))
    metrics = free.update(answers())
    assert (metrics["optimizer_steps"], metrics["early_stop"]) == (8, 0)
    held = agent_of(reference=reference, **settings, **{limit: 0.01}, optim=OptimConfig(learning_rate=0.01, epochs=8))
    metrics = held.update(answers())
    assert 1 <= metrics["optimizer_steps"] < 8
    assert metrics["early_stop"] == 1


def changed(policy, **settings):
    """Which parts of the policy an update moves."""
    before = weights_of(policy)
    agent_of(policy, **settings, **FAST).update(answers())
    after = weights_of(policy)
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_actor_and_critic_both_learn():
    assert changed(with_critic()) == {"model", "value_head"}
    assert changed(with_critic(separate=True)) == {"model", "critic_model", "value_head"}


def test_the_critic_learns_alone_when_the_actor_does_not():
    def moved(**options):
        policy = with_critic(**options)
        before = weights_of(policy)
        optim = OptimConfig(learning_rate=0.0, critic_learning_rate=0.01, epochs=3)
        agent_of(policy, optim=optim).update(answers())
        return {name.split(".")[0] for name, x in weights_of(policy).items() if not torch.equal(before[name], x)}

    assert moved(separate=True) == {"critic_model", "value_head"}
    assert moved() == {"value_head"}


def test_the_value_loss_falls():
    """The critic alone, many epochs over one rollout: it learns the returns."""
    policy = with_critic(separate=True)
    optim = OptimConfig(learning_rate=0.0, critic_learning_rate=0.01, epochs=20)
    agent = agent_of(policy, gamma=1.0, lam=1.0, optim=optim)
    first = agent.update(answers())
    later = agent.update(answers())
    assert later["explained_variance"] > first["explained_variance"]
    assert later["value_loss"] < first["value_loss"] / 2


def test_the_reference_stays_as_it_was():
    reference = small_policy(seed=3)
    before = weights_of(reference)
    agent_of(reference=reference, kl_coef=0.1, **FAST).update(answers())
    assert distance(before, weights_of(reference)) == 0


def test_the_kl_in_the_reward_keeps_the_policy_near_the_reference():
    def kl_after(**settings):
        policy, reference = with_critic(), small_policy()
        agent = agent_of(
            policy, reference if settings else None, optim=OptimConfig(learning_rate=3e-3, epochs=2), **settings
        )
        prompt = prompts_of((3,))[0]
        every = make_rollout([prompt] * 35, [[token] for token in range(35)])
        generator = torch.Generator().manual_seed(0)
        for _ in range(15):
            with torch.no_grad():
                mass = policy.evaluate(every).logprob[:, 0].exp()
            tokens = torch.multinomial(mass, 32, replacement=True, generator=generator)
            returns = (tokens < 12).float().tolist()
            agent.update(make_rollout([prompt] * 32, tokens[:, None].tolist(), problem=[0] * 32, returns=returns))
        with torch.no_grad():
            p, q = (x.evaluate(every).logprob[:, 0] for x in (policy, reference))
        return float((p.exp() * (p - q)).sum())

    free = kl_after(whiten_advantages=False)
    held = kl_after(kl_coef=1.0, whiten_advantages=False)
    assert free > 0.2
    assert held < free / 3
