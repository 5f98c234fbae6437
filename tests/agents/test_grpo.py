"""GRPO against numbers worked out by hand, on a policy whose log-probabilities are given."""

import math

import pytest
import torch
from small import distance, make_rollout, prompts_of, small_policy, weights_of

from agents.annotate import annotate
from agents.grpo import GRPO, GRPOConfig
from agents.optim import OptimConfig, Optimizer
from agents.policy import Evaluation, Policy


class Given(Policy):
    """A policy whose `evaluate` returns what it was given, with a gradient into it."""

    def __init__(self, logprob, *, value=None, entropy=None, kl=None):
        super().__init__(small_policy().model, num_actions=35)
        self.logprob = torch.tensor(logprob).requires_grad_()
        self.value = None if value is None else torch.tensor(value).requires_grad_()
        self.entropy = None if entropy is None else torch.tensor(entropy)
        self.kl = None if kl is None else torch.tensor(kl).requires_grad_()

    def evaluate(self, rollout, *, with_entropy=False, with_final_value=False, kl_to=None):
        kl = None if kl_to is None else self.kl
        return Evaluation(self.logprob, self.entropy if with_entropy else None, self.value, kl=kl)


def four_answers(returns=(1.0, 0.8, 0.4, 0.2), **fields):
    """One problem, four completions of one token."""
    prompt = prompts_of((3,))[0]
    return make_rollout([prompt] * 4, [[9], [10], [11], [12]], problem=[0] * 4, returns=list(returns), **fields)


def agent_of(policy, reference=None, **settings):
    config = GRPOConfig(**settings)
    return GRPO(config, policy, Optimizer(policy, config.optim, total_iterations=1, seed=0), reference)


ADVANTAGES = (1.2649, 0.6325, -0.6325, -1.2649)
"""Rewards 1.0 0.8 0.4 0.2: mean 0.6, population std sqrt(0.1) = 0.3162."""


def test_the_first_gradient_is_the_advantage_of_each_answer():
    """At ratio 1 the loss is -A and its slope in the log-probability too; `update` finds the A by itself."""
    policy = small_policy()
    agent = agent_of(policy)
    seen = {}
    inner = agent.loss
    agent.loss = lambda rows, advantage: seen.setdefault("loss", inner(rows, advantage)) and inner(rows, advantage)
    agent.optimizer.descend = lambda loss, rollout, **options: loss(torch.arange(4)) and {}
    agent.update(four_answers())
    assert seen["loss"].loss[:, 0].tolist() == pytest.approx([-a for a in ADVANTAGES], abs=1e-4)


def test_one_update_uses_a_ratio_of_one_whatever_the_sampler_said():
    policy = Given([[-1.0], [-2.0], [-3.0], [-4.0]])
    rollout = four_answers(sampled_logprob=torch.full((4, 1), -9.0))
    result = agent_of(policy).loss(rollout, torch.tensor(ADVANTAGES))
    assert result.loss[:, 0].tolist() == pytest.approx([-a for a in ADVANTAGES])
    result.loss.sum().backward()
    assert policy.logprob.grad[:, 0].tolist() == pytest.approx([-a for a in ADVANTAGES])


def test_several_updates_are_clipped():
    """Log-probabilities -2.1 then -1.8: ratio 1.35. With A > 0 clipped to 1.2 and without a slope, with A < 0 not."""
    policy = Given([[-1.8], [-1.8], [-2.4], [-2.4]])
    rollout = four_answers(old_logprob=torch.full((4, 1), -2.1))
    advantage = torch.tensor([0.2, -0.2, 0.2, -0.2])
    result = agent_of(policy).loss(rollout, advantage)
    up, down = math.exp(0.3), math.exp(-0.3)
    assert result.loss[:, 0].tolist() == pytest.approx([-0.24, 0.2 * up, -0.2 * down, 0.16], abs=1e-6)
    result.loss.sum().backward()
    assert policy.logprob.grad[:, 0].tolist() == pytest.approx([0, 0.2 * up, -0.2 * down, 0], abs=1e-6)
    assert result.report["clip_ratio/high"][:, 0].tolist() == [1, 0, 0, 0]
    assert result.report["clip_ratio/low"][:, 0].tolist() == [0, 0, 0, 1]
    assert result.report["ratio/mean"][:, 0].tolist() == pytest.approx([up, up, down, down])


def test_the_samplers_numerics_are_corrected_for_on_request():
    """The sampler had -1.5, -0.5, -1, -3 where training has -1: weights exp(.5), exp(-.5), 1, and 2 for exp(2)."""
    policy = Given([[-1.0]] * 4)
    rollout = four_answers(sampled_logprob=torch.tensor([[-1.5], [-0.5], [-1.0], [-3.0]]))
    result = agent_of(policy, sampler_correction=2.0).loss(rollout, torch.full((4,), 1.0))
    weights = [math.exp(0.5), math.exp(-0.5), 1.0, 2.0]
    assert result.loss[:, 0].tolist() == pytest.approx([-w for w in weights])
    result.loss.sum().backward()
    assert policy.logprob.grad[:, 0].tolist() == pytest.approx([-w for w in weights])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_several_steps_the_samplers_numbers_serve_in_float32_and_are_scored_anew_in_bfloat16(dtype):
    policy = small_policy().to(dtype)
    sampled = torch.tensor([[-1.5], [-0.5], [-1.0], [-3.0]])
    rollout = annotate(four_answers(sampled_logprob=sampled), policy, None, OptimConfig(epochs=2))
    assert torch.equal(rollout.old_logprob, sampled) == (dtype == torch.float32)
    assert annotate(four_answers(), policy, None, OptimConfig()).old_logprob is None  # one step needs none


@pytest.mark.parametrize(("rows", "steps"), [(1, 3), (2, 3), (3, 2), (4, 2), (5, 1), (6, 1), (7, 1)])
def test_groups_that_make_one_minibatch_make_one_step(rows, steps):
    """Three groups of two: with 5 rows a minibatch the third group is needed, and no old log-probabilities are."""
    policy, optim = small_policy(), OptimConfig(minibatch_rows=rows)
    rollout = make_rollout([[9]] * 6, [[10]] * 6, problem=[0, 0, 1, 1, 2, 2])
    optimizer = Optimizer(policy, optim, total_iterations=1, seed=0)
    assert len(list(optimizer._minibatches(rollout))) == steps
    assert (annotate(rollout, policy, None, optim).old_logprob is None) == (steps == 1)


def test_the_two_distances_of_the_clip_are_separate():
    policy = Given([[-1.8]] * 4)
    rollout = four_answers(old_logprob=torch.full((4, 1), -2.1))
    result = agent_of(policy, clip_low=0.1, clip_high=0.28).loss(rollout, torch.full((4,), 1.0))
    assert result.loss[:, 0].tolist() == pytest.approx([-1.28] * 4)


@pytest.mark.parametrize(
    ("estimator", "penalty", "slope"),
    [
        # d = -1.8 + 2.0 = 0.2; weighted k3 at ratio 1: k3, with the slope k3 + (1 - e^-d)
        ("weighted_k3", math.exp(-0.2) - 1 + 0.2, (math.exp(-0.2) - 1 + 0.2) + 1 - math.exp(-0.2)),
        ("k3", math.exp(-0.2) - 1 + 0.2, 1 - math.exp(-0.2)),
        ("k2", 0.02, 0.2),
    ],
)
def test_the_kl_in_the_loss(estimator, penalty, slope):
    policy = Given([[-1.8]] * 4)
    rollout = four_answers(reference_logprob=torch.full((4, 1), -2.0))
    agent = agent_of(policy, small_policy(seed=3), kl_coef=0.5, kl_estimator=estimator)
    result = agent.loss(rollout, torch.zeros(4))
    assert result.loss[:, 0].tolist() == pytest.approx([0.5 * penalty] * 4, abs=1e-6)
    result.loss.sum().backward()
    assert policy.logprob.grad[:, 0].tolist() == pytest.approx([0.5 * slope] * 4, abs=1e-6)


def test_the_exact_kl_in_the_loss_has_its_own_gradient_and_leaves_the_log_probabilities_alone():
    policy = Given([[-1.8]] * 4, kl=[[0.3]] * 4)
    rollout = four_answers(reference_logprob=torch.full((4, 1), -2.0))
    agent = agent_of(policy, small_policy(seed=3), kl_coef=0.5, kl_estimator="full")
    result = agent.loss(rollout, torch.zeros(4))
    result.loss.sum().backward()
    assert result.loss[:, 0].tolist() == pytest.approx([0.15] * 4)
    assert policy.kl.grad[:, 0].tolist() == [0.5] * 4
    assert policy.logprob.grad.abs().max() == 0


def test_the_exact_kl_in_both_places_is_paid_where_it_is_known_and_differentiated_in_the_loss():
    policy = Given([[-1.8]] * 4, kl=[[0.3]] * 4)
    rollout = four_answers(
        reference_logprob=torch.full((4, 1), -2.0), reference_kl=torch.tensor([[0.2], [0.0], [0.0], [0.4]])
    )
    agent = agent_of(policy, small_policy(seed=3), kl_coef=0.5, kl_in="both", scale_advantages="none")
    # 1 - .1, .8, .4, .2 - .2 = .9, .8, .4, 0: mean .525
    assert agent.advantages(rollout).tolist() == pytest.approx([0.375, 0.275, -0.125, -0.525])
    assert agent.loss(rollout, torch.zeros(4)).loss[:, 0].tolist() == pytest.approx([0.15] * 4)


@pytest.mark.parametrize("where", [{"kl_in": "both", "scale_advantages": "none"}, {"kl_estimator": "full"}])
def test_an_update_with_the_exact_kl_pulls_towards_the_reference(where):
    policy, reference = small_policy(), small_policy(seed=3)
    agent = agent_of(policy, reference, kl_coef=1.0, optim=OptimConfig(learning_rate=0.02), **where)
    before = float(policy.score(four_answers(), microbatch_tokens=64, kl_to=reference).kl.sum())
    metrics = agent.update(four_answers((0.1, 0.1, 0.1, 0.1)))
    after = float(policy.score(four_answers(), microbatch_tokens=64, kl_to=reference).kl.sum())
    assert metrics["kl/loss"] * 4 == pytest.approx(before, rel=1e-4)
    assert after < before
    if where.get("kl_in"):
        assert metrics["kl"] == pytest.approx(metrics["kl/loss"], rel=1e-4)


def test_the_reference_is_renewed_every_so_many_iterations_and_comes_back_from_a_checkpoint():
    policy, reference = small_policy(), small_policy(seed=3)
    settings = {"kl_coef": 0.1, "reference_every": 2, "optim": OptimConfig(learning_rate=0.01)}
    agent = agent_of(policy, reference, **settings)
    start = weights_of(reference)
    agent.update(four_answers())
    assert distance(start, weights_of(reference)) == 0
    agent.update(four_answers())
    assert distance(weights_of(policy), weights_of(reference)) == 0
    agent.update(four_answers())
    assert distance(weights_of(policy), weights_of(reference)) > 0
    again = agent_of(small_policy(seed=5), small_policy(seed=6), **settings)
    again.load(agent.state())
    assert distance(weights_of(reference), weights_of(again.reference)) == 0
    kept = agent_of(policy, reference, kl_coef=0.1)
    assert kept.state()["reference"] is None  # one that never moves is made again from where the run began


def test_a_group_without_variance_changes_nothing():
    policy = small_policy()
    before = weights_of(policy)
    metrics = agent_of(policy, optim=OptimConfig(learning_rate=0.1)).update(four_answers((0.1, 0.1, 0.1, 0.1)))
    assert distance(before, weights_of(policy)) == 0
    assert metrics["groups/zero_variance_share"] == 1
    assert metrics["optimizer_steps"] == 0


def test_a_group_without_variance_is_still_pulled_to_the_reference():
    policy = small_policy()
    before = weights_of(policy)
    agent = agent_of(policy, small_policy(seed=3), kl_coef=1.0, optim=OptimConfig(learning_rate=0.1))
    agent.update(four_answers((0.1, 0.1, 0.1, 0.1)))
    assert distance(before, weights_of(policy)) > 0.05


def test_the_bonus_grows_while_the_entropy_is_below_its_target_and_is_off_above():
    """Entropies of 35 tokens are below 3.6 nats and above 0: the weight of update 1 is 0, of update 2 one step."""
    low = agent_of(small_policy(), entropy_target=100.0, entropy_step=0.25, entropy_max=0.4)
    assert [low.update(four_answers())["entropy_coef"] for _ in range(3)] == [0.0, 0.25, 0.4]
    high = agent_of(small_policy(), entropy_target=1e-6, entropy_coef=0.5, entropy_step=0.25)
    assert [high.update(four_answers())["entropy_coef"] for _ in range(3)] == [0.0, 0.0, 0.0]
    assert high.entropy.coefficient == 0.0


@pytest.mark.parametrize("settings", [{"entropy_coef": 0.5}, {"entropy_coef": 0.5, "entropy_target": 100.0}])
def test_a_group_without_variance_is_still_spread_by_the_bonus(settings):
    """Of the whole distribution, of every row; with a target from the second update on."""
    policy, equal = small_policy(), four_answers((0.1, 0.1, 0.1, 0.1))

    def entropy_now():
        with torch.no_grad():
            return float(policy.evaluate(equal, with_entropy=True).entropy[equal.mask].mean())

    before = entropy_now()
    agent = agent_of(policy, optim=OptimConfig(learning_rate=0.01), **settings)
    assert agent.update(equal)["entropy/update"] == pytest.approx(before, rel=1e-5)
    assert (entropy_now() > before) == ("entropy_target" not in settings)
    agent.update(equal)
    assert entropy_now() > before + 0.01


def test_nothing_adapts_where_every_grader_failed():
    agent = agent_of(small_policy(), entropy_target=100.0)
    agent.update(four_answers(valid=torch.zeros(4, dtype=torch.bool)))
    assert agent.entropy.coefficient == 0.0


def test_the_weight_of_the_bonus_comes_back_from_a_checkpoint(tmp_path):
    settings = {"entropy_target": 100.0, "optim": OptimConfig(learning_rate=1e-3)}
    straight = agent_of(small_policy(), **settings)
    straight.update(four_answers())
    torch.save(straight.state(), tmp_path / "state.pt")
    expected = straight.update(four_answers())
    resumed = agent_of(small_policy(), **settings)
    resumed.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.update(four_answers()) == expected
    assert expected["entropy_coef"] == 0.005
    assert distance(weights_of(resumed.policy), weights_of(straight.policy)) == 0


def test_it_holds_no_critic():
    policy = small_policy()
    agent_of(policy).update(four_answers())
    assert policy.value_head is None
    assert policy.critic_model is None
    assert {name.split(".")[0] for name, _ in policy.named_parameters()} == {"model"}


def test_better_answers_become_more_likely_and_worse_ones_less():
    policy, rollout = small_policy(), four_answers()
    with torch.no_grad():
        before = policy.evaluate(rollout).logprob[:, 0]
    agent_of(policy, optim=OptimConfig(learning_rate=1e-3)).update(rollout)
    with torch.no_grad():
        change = policy.evaluate(rollout).logprob[:, 0] - before
    assert change[0] > 0 > change[3]


def kl_after(steps, **settings):
    """The exact KL to the reference at the prompt, after learning to give one answer."""
    policy, reference = small_policy(), small_policy()
    reference.requires_grad_(False)
    frozen = weights_of(reference)
    agent = agent_of(policy, reference if settings else None, optim=OptimConfig(learning_rate=3e-3), **settings)
    prompt = prompts_of((3,))[0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        tokens = torch.multinomial(next_distribution(policy, prompt), 32, replacement=True, generator=generator)
        returns = (tokens < 12).float()
        rollout = make_rollout([prompt] * 32, tokens[:, None].tolist(), problem=[0] * 32, returns=returns.tolist())
        with torch.no_grad():
            rollout = rollout.with_(sampled_logprob=policy.evaluate(rollout).logprob)
        metrics = agent.update(rollout)
    assert distance(frozen, weights_of(reference)) == 0
    p, q = next_distribution(policy, prompt), next_distribution(reference, prompt)
    return float((p * (p / q).log()).sum()), metrics


@torch.no_grad()
def next_distribution(policy, prompt):
    every = make_rollout([prompt] * 35, [[token] for token in range(35)])
    return policy.evaluate(every).logprob[:, 0].exp()


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_the_kl_keeps_the_policy_near_the_reference_wherever_it_acts(place):
    free, _ = kl_after(15)
    held, metrics = kl_after(15, kl_coef=0.5, kl_in=place, scale_advantages="none")
    assert free > 0.2
    assert held < free / 3
    assert metrics["kl"] >= 0
    assert "kl/row" in metrics


def test_the_reported_kl_is_that_of_the_samples():
    """k3 and k1 by hand from the log-probabilities of the policy and of the reference."""
    policy, reference = small_policy(), small_policy(seed=3)
    rollout = four_answers()
    with torch.no_grad():
        acted = policy.evaluate(rollout).logprob
        d = acted - reference.evaluate(rollout).logprob
    agent = agent_of(policy, reference, kl_coef=0.1)
    metrics = agent.update(rollout.with_(sampled_logprob=acted))
    assert metrics["kl"] == pytest.approx(float(((-d).exp() - 1 + d).mean()), rel=1e-4)
    assert metrics["kl/row"] == pytest.approx(float(d.sum(1).mean()), rel=1e-4)
    assert metrics["ratio/first_minibatch_max"] == pytest.approx(1, abs=1e-4)
