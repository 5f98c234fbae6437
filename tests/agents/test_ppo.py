"""PPO against numbers worked out by hand, on a policy whose log-probabilities and values are given."""

import math

import pytest
import torch
from small import distance, make_rollout, prompts_of, small_policy, weights_of, with_critic
from test_grpo import Given

from agents.credit import last_token
from agents.kl import HalvingKL, k1
from agents.optim import OptimConfig, Optimizer
from agents.ppo import PPO, PPOConfig
from agents.ppo.values import LEAST_STD, ValueScale, rewrite
from textenv import FinishReason


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


def test_the_samplers_numerics_are_corrected_for_in_the_objective_and_not_in_the_value_loss():
    """Old -1 where the sampler had -1.1: the weight exp(.1), capped at 1.25 for the second token's exp(1)."""
    policy = Given([[-1.0, -1.0]], value=[[2.0, 2.0]])
    rollout = one_answer(sampled_logprob=row(-1.1, -2.0), old_logprob=row(-1.0, -1.0), value=row(0.0, 0.0))
    agent = agent_of(policy, sampler_correction=1.25, value_coef=1.0)
    found = agent.loss(rollout, row(1.0, 1.0), row(0.0, 0.0)).loss
    assert found[0].tolist() == pytest.approx([2 - math.exp(0.1), 2 - 1.25])


def test_the_kl_to_the_reference_that_may_end_an_update_is_that_of_the_policy_as_it_is_now():
    """-1.8 against the reference's -2: k3 of .2, whatever the old policy had."""
    rollout = one_answer(1, old_logprob=row(-2.1), value=row(0.0), reference_logprob=row(-2.0))
    agent = agent_of(Given([[-1.8]], value=[[0.0]]), small_policy(seed=3), kl_coef=0.1, max_kl_reference=0.01)
    report = agent.loss(rollout, row(0.0), row(0.0)).report
    assert report["kl/reference_now"].item() == pytest.approx(math.exp(-0.2) - 1 + 0.2)


def test_a_kl_that_adapts_acts_with_the_weight_that_its_controller_has_come_to():
    """Beta began at 0.5 and is 2: 1 less 2 x (-1 - -1.25) is paid; in the loss k2 of that difference is 0.03125."""
    rollout = one_answer(
        1,
        returns=[1.0],
        value=row(0.0),
        final_value=torch.zeros(1),
        old_logprob=row(-1.0),
        reference_logprob=row(-1.25),
    )
    adapts = {"kl_coef": 0.5, "kl_controller": "halving"}
    paid = agent_of(reference=small_policy(seed=3), **plain(**adapts))
    given = Given([[-1.0]], value=[[0.0]])
    lost = agent_of(given, small_policy(seed=3), kl_in="loss", kl_estimator="k2", **adapts)
    for agent in (paid, lost):
        agent.kl = HalvingKL(2.0, target=6.0)
    assert paid.advantages(rollout)[0].item() == pytest.approx(0.5)
    assert lost.loss(rollout, row(0.0), row(0.0)).loss.item() == pytest.approx(2 * 0.03125)


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


def test_the_penalty_adapts_to_where_the_update_ended_and_not_to_its_way_there():
    """One step: on the way the KL to the old policy is 0, behind it it is that of the new log-probabilities."""
    agent, rollout = agent_of(objective="penalty", optim=OptimConfig(learning_rate=0.03)), answers()
    with torch.no_grad():
        old = agent.policy.evaluate(rollout).logprob
    metrics = agent.update(rollout)
    with torch.no_grad():
        change = (agent.policy.evaluate(rollout).logprob - old)[rollout.mask]
    after = float((change.exp() - 1 - change).mean())
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["approx_kl/after"] == pytest.approx(after, rel=1e-4)
    assert after > 0.015
    assert agent.penalty.beta == 2.0


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


# ---- dual clip and the penalty's controllers ----


def test_a_cap_on_the_ratio_bounds_what_a_bad_token_costs():
    """Ratio e^2 = 7.39 and A = -1: the clip leaves it free above (7.39), the cap of 3 makes it 3 with no slope."""
    free, capped = Given([[-0.1]], value=[[0.0]]), Given([[-0.1]], value=[[0.0]])
    assert loss_of(free, [[-1.0]], [[0.0]]).loss.item() == pytest.approx(math.exp(2), rel=1e-5)
    assert loss_of(capped, [[-1.0]], [[0.0]], ratio_cap=3.0).loss.item() == pytest.approx(3)
    assert free.logprob.grad.item() == pytest.approx(math.exp(2), rel=1e-5)
    assert capped.logprob.grad.item() == 0


def test_what_the_cap_took_is_counted_and_where_nothing_is_clipped_nothing_is():
    """The ratio e^2 is beyond the clip of A = 1, beyond the cap of A = -1, and free under the penalty."""

    def report(advantage, **settings):
        found = loss_of(Given([[-0.1]], value=[[0.0]]), [[advantage]], [[0.0]], **settings).report
        return {name: x.item() for name, x in found.items() if name.startswith("clip_ratio")}

    capped = {"clip_ratio/low": 0, "clip_ratio/high": 0, "clip_ratio/cap": 1, "clip_ratio": 1}
    assert report(-1.0, ratio_cap=3.0) == capped
    assert report(1.0, ratio_cap=3.0) == capped | {"clip_ratio/high": 1, "clip_ratio/cap": 0}
    for advantage in (1.0, -1.0):
        assert set(report(advantage, objective="penalty").values()) == {0}


def test_the_penalty_may_stay_or_change_by_the_horizon():
    """16 rows of a horizon of 160 change beta by at most a fifth of a tenth, here down: the step is tiny."""
    tiny = {"objective": "penalty", "optim": OptimConfig(learning_rate=1e-7, epochs=2)}
    for controller, beta in (("fixed", 1.0), ("horizon", 0.98), ("halving", 0.5)):
        agent = agent_of(penalty_controller=controller, penalty_horizon=160, **tiny)
        agent.update(answers())
        assert agent.penalty.beta == pytest.approx(beta)


# ---- completions that were cut off ----

CUT = torch.tensor([FinishReason.BUDGET, FinishReason.EOS, FinishReason.CONTEXT, FinishReason.STOP])


def cut_and_ended(**fields):
    """Two completions that were cut (one called terminated, one truncated) and two that ended, all paid 1."""
    fields = {"value": torch.zeros(4, 2), "final_value": torch.full((4,), 8.0)} | fields
    return make_rollout(
        prompts_of((3, 4, 5, 6)),
        [[9, 10], [9], [9, 10], [9, 10]],
        returns=[1.0] * 4,
        finish_reason=CUT,
        truncated=torch.tensor([False, False, True, False]),
        **fields,
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"truncation": "bootstrap"}, [[0, 1], [1, 0], [0, 5], [0, 1]]),
        ({"truncation": "terminal"}, [[0, 1], [1, 0], [0, 1], [0, 1]]),
        ({"truncation": "penalty", "truncation_penalty": 0.25}, [[0, 0.75], [1, 0], [0, 0.75], [0, 1]]),
        ({"truncation": "mask"}, [[0, 0], [1, 0], [0, 0], [0, 1]]),
    ],
    ids=lambda x: x.get("truncation") if isinstance(x, dict) else "",
)
def test_what_each_kind_of_truncation_pays(settings, expected):
    """Gamma 0.5, lambda 0, V = 0 and then 8 behind the end: advantages are the deltas, 1 + 0.5 x 8 with bootstrap."""
    advantage, target = agent_of(**plain(gamma=0.5, lam=0.0), **settings).advantages(cut_and_ended())
    assert advantage.tolist() == target.tolist() == expected


def test_cut_completions_that_are_masked_are_left_out_of_the_whitening():
    """Advantages 1 and 3 of what ended: mean 2, std 1. The cut ones would have moved both."""
    rollout = cut_and_ended().with_(
        reward=torch.tensor([[50.0, 70.0], [1.0, 0.0], [-90.0, 20.0], [2.0, 3.0]]),
        mask=torch.tensor([[True, True], [True, False], [True, True], [False, True]]),
    )
    advantage, _ = agent_of(truncation="mask").advantages(rollout)
    assert advantage.flatten().tolist() == pytest.approx([0, 0, -1, 0, 0, 0, 0, 1], abs=1e-6)


def test_masking_what_was_cut_is_the_same_update_as_a_grader_that_failed():
    """Weights and metrics; where everything was cut nothing is learned and nothing adapts."""
    reasons = torch.tensor([FinishReason.BUDGET, FinishReason.EOS] * 8)
    rollout = answers().with_(finish_reason=reasons)
    masked, failed = agent_of(truncation="mask", **FAST), agent_of(**FAST)
    metrics = masked.update(rollout)
    assert metrics == failed.update(rollout.with_(valid=reasons == FinishReason.EOS))
    assert distance(weights_of(masked.policy), weights_of(failed.policy)) == 0
    before = weights_of(masked.policy)
    assert masked.update(rollout.with_(finish_reason=reasons * 0 + FinishReason.CONTEXT))["optimizer_steps"] == 0
    assert distance(before, weights_of(masked.policy)) == 0


# ---- the critic ----


def warming(policy, dtype=torch.float32, **settings):
    optim = OptimConfig(learning_rate=0.01, epochs=2, weight_decay=0.1, warmup_steps=3)
    config = PPOConfig(critic_warmup=2, optim=optim, **settings)
    return PPO(config, policy, Optimizer(policy, optim, total_iterations=4, seed=0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("separate", [False, True])
def test_while_the_critic_warms_up_nothing_of_the_actor_changes(separate, dtype):
    """Neither by the value loss (the trunk is the actor's) nor by weight decay nor in what Adam keeps; behind it the
    actor's rate begins to rise from the start: a step of 1/4 and one of 2/4."""
    agent = warming(with_critic(separate=separate), dtype)
    actor, critic = agent.optimizer.actor.masters, agent.optimizer.critic.masters
    start = {name: p.detach().clone() for name, p in [*actor.items(), *critic.items()]}
    for _ in range(2):
        metrics = agent.update(answers())
        assert metrics["learning_rate"] == 0
        assert metrics["optimizer_steps"] == 2
        assert all(torch.equal(p, start[name]) for name, p in actor.items())
        assert not any(p in agent.optimizer.adam.state for p in actor.values())
    assert metrics["learning_rate/critic"] == pytest.approx(0.01)
    moved = {name.split(".")[0] for name, p in critic.items() if not torch.equal(p, start[name])}
    assert moved == ({"critic_model", "value_head"} if separate else {"value_head"})
    metrics = agent.update(answers())
    assert metrics["learning_rate"] == pytest.approx(0.01 * 2 / 4)
    assert not all(torch.equal(p, start[name]) for name, p in actor.items())
    assert {int(agent.optimizer.adam.state[p]["step"]) for p in actor.values()} == {2}


def test_the_first_step_behind_the_warm_up_is_the_one_without_it():
    """The same rollout, a critic that cannot learn: what the actor does does not depend on how long it waited."""
    rollout, found = answers(), []
    for critic_warmup in (0, 2):
        policy = with_critic(separate=True)
        optim = OptimConfig(learning_rate=0.01, critic_learning_rate=1e-30, warmup_steps=1)
        config = PPOConfig(critic_warmup=critic_warmup, optim=optim)
        agent = PPO(config, policy, Optimizer(policy, optim, total_iterations=9, seed=0))
        for _ in range(critic_warmup + 1):
            agent.update(rollout)
        found.append({name: x for name, x in weights_of(policy).items() if name.startswith("model.")})
    assert distance(*found) == 0


def test_no_weight_adapts_while_the_critic_warms_up():
    settings = {"objective": "penalty", "entropy_target": 100.0}
    agent = warming(with_critic(), **settings)
    for _ in range(2):
        agent.update(answers())
        assert (agent.penalty.beta, agent.entropy.coefficient) == (1.0, 0.0)
    agent.update(answers())
    assert agent.penalty.beta != 1.0
    assert agent.entropy.coefficient == 0.005


def test_a_scale_averages_the_targets_and_their_squares():
    """Targets 1 and 3 (mean 2, of squares 5), then 5 and 7 (6, 37), weights 0.09 and 0.1 of 0.19: mean 0.78 / 0.19,
    of squares 4.15 / 0.19."""
    every, targets = torch.ones(1, 2, dtype=torch.bool), (row(1.0, 3.0), row(5.0, 7.0))
    once = ValueScale().update(targets[0], every)
    assert (once.mean, once.std) == (pytest.approx(2), pytest.approx(1))
    twice = once.update(targets[1], every)
    mean = 0.78 / 0.19
    assert twice.mean == pytest.approx(mean)
    assert twice.std == pytest.approx(math.sqrt(4.15 / 0.19 - mean**2))
    assert twice.update(targets[0], ~every) is twice
    assert twice.real(twice.normal(torch.tensor([3.0, -9.0]))).tolist() == pytest.approx([3, -9])


def test_a_scale_that_knows_nothing_changes_nothing_and_equal_targets_have_a_smallest_std():
    assert ValueScale().normal(row(3.0)).item() == ValueScale().real(row(3.0)).item() == 3
    equal = ValueScale().update(row(4.0, 4.0), torch.ones(1, 2, dtype=torch.bool))
    assert (equal.mean, equal.std) == (pytest.approx(4), LEAST_STD)


def test_a_new_scale_changes_no_value():
    head, hidden = with_critic().value_head, torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    before, after = ValueScale(1.0, 2.0, 5.0), ValueScale(1.0, -3.0, 25.0)
    values = before.real(head(hidden))
    rewrite(head, before, after)
    torch.testing.assert_close(after.real(head(hidden)), values, rtol=1e-5, atol=1e-5)


def test_values_are_judged_on_the_scale_and_used_in_rewards():
    """Mean 2, std 4: the target 4 is 0.5, the critic says 0.25: 0.25^2 / 2. Clipped to 0.1 around an old value of 2,
    that is 0, it counts as 0.1: 0.4^2 / 2."""
    policy = Given([[-2.1]], value=[[0.25]])
    agent = agent_of(policy, normalize_values=True, value_coef=1.0)
    agent.values = ValueScale(1.0, 2.0, 20.0)
    rollout = one_answer(1, old_logprob=row(-2.1), value=row(2.0))
    assert agent.loss(rollout, row(0.0), row(4.0)).loss.item() == pytest.approx(0.03125)
    agent.config.value_clip = 0.1
    assert agent.loss(rollout, row(0.0), row(4.0)).loss.item() == pytest.approx(0.08)


def test_a_critic_that_is_still_zero_says_the_mean_of_the_first_returns():
    """Returns 10 and 30 of one token each: V = 20 and std 10, advantages -10 and 10, explained variance 0."""
    policy = small_policy(value_head=with_critic().value_head)
    with torch.no_grad():
        policy.value_head.linear.weight.zero_()
    agent = agent_of(policy, normalize_values=True)
    rollout = make_rollout(prompts_of((3, 4)), [[9], [10]], returns=[10.0, 30.0])
    seen = {}
    inner = agent.loss
    agent.loss = lambda rows, advantage, target: (
        seen.update(a=advantage, v=rows.value) or inner(rows, advantage, target)
    )
    agent.config.whiten_advantages = False
    metrics = agent.update(rollout)
    assert metrics["value/mean"] == pytest.approx(20)
    assert metrics["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert metrics["value/target_std"] == pytest.approx(10)
    assert sorted(seen["a"].flatten().tolist()) == pytest.approx([-10, 10])
    assert seen["v"].flatten().tolist() == pytest.approx([20, 20])
    assert metrics["value_loss"] == pytest.approx(0.5)


def test_normalized_values_do_not_depend_on_the_unit_of_the_reward():
    """Rewards a hundred times larger and 500 above: the same weights, values in the new unit."""
    found = []
    for scale, shift in ((1.0, 0.0), (100.0, 500.0)):
        agent = agent_of(small_policy(value_head=with_critic().value_head), normalize_values=True, **FAST)
        rollout = answers()
        last = last_token(rollout.mask)
        rollout = rollout.with_(reward=torch.where(last, rollout.reward * scale + shift, 0.0))
        for _ in range(3):
            metrics = agent.update(rollout)
        found.append((weights_of(agent.policy), metrics))
    assert distance(found[0][0], found[1][0]) < 1e-3
    assert found[1][1]["value/mean"] == pytest.approx(100 * found[0][1]["value/mean"] + 500, rel=1e-3)
    assert found[1][1]["value_loss"] == pytest.approx(found[0][1]["value_loss"], rel=1e-2)


# ---- what is paid ----


def test_rewards_are_clipped_before_the_penalty_and_the_kl_come_off():
    """A score of 5 clipped to 2, less 0.5 for being cut, less 1 x (-1 - -1.25) of KL: 1.25."""
    rollout = one_answer(
        1,
        returns=[5.0],
        value=row(0.0),
        final_value=torch.zeros(1),
        old_logprob=row(-1.0),
        reference_logprob=row(-1.25),
        finish_reason=torch.tensor([FinishReason.BUDGET]),
    )
    settings = {"reward_clip": 2.0, "truncation": "penalty", "truncation_penalty": 0.5, "kl_coef": 1.0}
    advantage, _ = agent_of(reference=small_policy(seed=3), **plain(**settings)).advantages(rollout)
    assert advantage.item() == pytest.approx(1.25)


def test_whitened_rewards_are_what_advantages_are_made_of():
    """Returns 0 and 4, std 2: the advantage is 2. Over tokens: mean 4/3, std sqrt(32/9), the last (4 - m) / s + m."""
    rollout = make_rollout(
        prompts_of((3, 4)), [[9], [9, 10]], returns=[0.0, 4.0], value=torch.zeros(2, 2), final_value=torch.zeros(2)
    )
    settings = plain(gamma=0.0, lam=0.0)
    assert agent_of(whiten_rewards="returns", **settings).advantages(rollout)[0].tolist() == [[0, 0], [0, 2]]
    mean, std = 4 / 3, math.sqrt(32 / 9)
    found, _ = agent_of(whiten_rewards="tokens", **settings).advantages(rollout)
    low, high = mean - mean / std, (4 - mean) / std + mean
    assert found.flatten().tolist() == pytest.approx([low, 0, low, high])


# ---- the entropy's weight ----


def test_the_bonus_grows_while_the_entropy_is_below_its_target_and_is_off_above():
    """Entropies of 35 tokens are below 3.6 nats and above 0: the weight of update 1 is 0, of update 2 one step."""
    low = agent_of(entropy_target=100.0, entropy_step=0.25, entropy_max=0.4)
    assert [low.update(answers())["entropy_coef"] for _ in range(3)] == [0.0, 0.25, 0.4]
    high = agent_of(entropy_target=1e-6, entropy_coef=0.5, entropy_step=0.25)
    assert [high.update(answers())["entropy_coef"] for _ in range(3)] == [0.0, 0.0, 0.0]
    assert high.entropy.coefficient == 0.0


def test_the_entropy_that_is_compared_is_that_of_the_whole_distribution():
    policy = with_critic()
    with torch.no_grad():
        rollout = answers()
        expected = policy.evaluate(rollout, with_entropy=True).entropy[rollout.mask].mean()
    agent = agent_of(policy, entropy_target=100.0, optim=OptimConfig(learning_rate=0.0))
    assert agent.update(rollout)["entropy/update"] == pytest.approx(float(expected), rel=1e-5)


def test_the_bonus_of_an_update_is_the_controllers_weight():
    """Entropy 1.5 and a coefficient of 0.2 that acts: -0.3."""
    agent = agent_of(Given([[-2.1]], value=[[0.0]], entropy=[[1.5]]), entropy_target=2.0, entropy_coef=0.2)
    rollout = one_answer(1, old_logprob=row(-2.1), value=row(0.0))
    assert agent.loss(rollout, row(0.0), row(0.0)).loss.item() == 0
    agent.entropy = agent.entropy.update(2.0)
    assert agent.loss(rollout, row(0.0), row(0.0)).loss.item() == pytest.approx(-0.3)


# ---- all of it in a checkpoint ----


def test_everything_that_adapts_is_in_the_state(tmp_path):
    settings = {
        "objective": "penalty",
        "penalty_controller": "horizon",
        "penalty_horizon": 100,
        "kl_coef": 0.1,
        "kl_controller": "halving",
        "entropy_target": 100.0,
        "normalize_values": True,
        "critic_warmup": 1,
        "optim": OptimConfig(learning_rate=1e-3, epochs=2, warmup_steps=3),
    }

    def fresh():
        return agent_of(reference=small_policy(seed=3), **settings)

    straight = fresh()
    for _ in range(2):
        straight.update(answers())
    start = fresh()
    assert straight.kl != start.kl
    assert straight.penalty != start.penalty
    assert straight.entropy != start.entropy
    assert straight.values != start.values
    torch.save(straight.state(), tmp_path / "state.pt")
    expected = straight.update(answers())
    resumed = fresh()
    resumed.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.update(answers()) == expected
    assert distance(weights_of(resumed.policy), weights_of(straight.policy)) == 0
