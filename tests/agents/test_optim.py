"""`Optimizer.descend`: minibatches, means, schedules, early stop, bfloat16. What must not matter: `test_invariance`."""

import itertools

import pytest
import torch
from small import (
    distance,
    make_rollout,
    prompts_of,
    small_policy,
    weights_of,
    with_critic,
)
from test_invariance import LARGE, seven_rows

from agents.master_weights import MasterWeights
from agents.optim import OptimConfig, Optimizer, TokenLoss, decayed
from agents.ppo import PPO, PPOConfig


def test_minibatches_hold_whole_problems_in_an_order_of_their_own_for_every_epoch():
    policy = small_policy()
    rollout = make_rollout([[9]] * 12, [[10]] * 12, problem=[p for p in range(6) for _ in range(2)])
    optimizer = Optimizer(policy, OptimConfig(epochs=4, minibatch_rows=4), total_iterations=1, seed=0)
    batches = [batch.tolist() for batch in optimizer._minibatches(rollout)]
    assert len(batches) == 12
    for batch in batches:
        assert all(row ^ 1 in batch for row in batch)
    epochs = [tuple(itertools.chain(*batches[3 * e : 3 * e + 3])) for e in range(4)]
    assert len(set(epochs)) == 4
    again = Optimizer(small_policy(), OptimConfig(epochs=4, minibatch_rows=4), total_iterations=1, seed=0)
    assert [batch.tolist() for batch in again._minibatches(rollout)] == batches


def constant_loss(policy, rollout, value=1.0):
    """A loss with a gradient: the negated log-probability times `value`."""

    def loss(rows):
        logprob = policy.evaluate(rollout[rows]).logprob
        return TokenLoss(-value * logprob, {"seen": torch.ones_like(logprob)}, logprob.detach())

    return loss


def test_metrics_are_means_over_the_tokens_that_took_part():
    """Rows of 1, 2 and 5 tokens that report 10, 20 and 30: (10 + 40 + 150) / 8 = 25, whatever the minibatches."""
    rollout = make_rollout(prompts_of((3, 4, 5)), prompts_of((1, 2, 5)))
    for rows in (1, 2, None):
        policy = small_policy()
        optimizer = Optimizer(policy, OptimConfig(minibatch_rows=rows), total_iterations=1, seed=0)

        def loss(rows, policy=policy):
            logprob = policy.evaluate(rollout[rows]).logprob
            return TokenLoss(-logprob, {"number": (10.0 * (rows + 1))[:, None].expand_as(logprob)})

        assert optimizer.descend(loss, rollout)["number"] == pytest.approx(25)


def test_the_gradient_norm_is_clipped():
    """With plain gradient descent in mind: Adam's first step does not show it, the reported norm does."""
    policy = small_policy()
    optimizer = Optimizer(policy, OptimConfig(max_grad_norm=1e-3), total_iterations=1, seed=0)
    norm = optimizer.descend(constant_loss(policy, seven_rows()), seven_rows())["grad_norm"]
    assert norm > 0.1  # before the clip
    moment = torch.cat([s["exp_avg"].flatten() for s in optimizer.adam.state.values()]).norm()
    assert float(moment) == pytest.approx(0.1 * 1e-3, rel=1e-3)  # 1 - beta1 times the clipped gradient


def rates_over(config, *, total=4, steps_per_update=1):
    """The learning rates (actor, critic) of each update's last step."""
    policy, rollout = with_critic(), make_rollout(prompts_of((2,) * steps_per_update), [[9]] * steps_per_update)
    optimizer = Optimizer(policy, config, total_iterations=total, seed=0)
    rates = []
    for _ in range(total):
        metrics = optimizer.descend(constant_loss(policy, rollout), rollout)
        rates.append((metrics["learning_rate"], metrics["learning_rate/critic"]))
    return rates


def test_a_constant_learning_rate_stays():
    assert rates_over(OptimConfig(learning_rate=0.5)) == [(0.5, 0.5)] * 4


def test_linear_and_cosine_decay_of_actor_and_critic():
    """Four iterations at progress 0, 1/4, 1/2, 3/4: linear leaves 1 3/4 1/2 1/4, cosine (1 + cos(pi p)) / 2."""
    config = OptimConfig(learning_rate=0.8, decay="linear", critic_learning_rate=0.2, critic_decay="cosine")
    rates = rates_over(config)
    assert [actor for actor, _ in rates] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert [critic for _, critic in rates] == pytest.approx([0.2, 0.2 * 0.853553, 0.1, 0.2 * 0.146447], rel=1e-5)


def test_the_critic_follows_the_actor_unless_told_otherwise():
    assert all(a == c for a, c in rates_over(OptimConfig(learning_rate=0.8, decay="cosine")))
    held = rates_over(OptimConfig(learning_rate=0.8, decay="linear", critic_learning_rate=0.0))
    assert [c for _, c in held] == [0.0] * 4


def test_a_decay_may_begin_late():
    """Linear over the last half of six iterations: 1 1 1 1 2/3 1/3."""
    rates = rates_over(OptimConfig(learning_rate=0.6, decay="linear", decay_share=0.5), total=6)
    assert [actor for actor, _ in rates] == pytest.approx([0.6, 0.6, 0.6, 0.6, 0.4, 0.2])


def test_warm_up_rises_over_steps_from_above_zero():
    """Three steps of warm-up: 1/4, 2/4, 3/4, then 1."""
    rates = rates_over(OptimConfig(learning_rate=0.4, warmup_steps=3), total=5)
    assert [actor for actor, _ in rates] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_warm_up_counts_optimizer_steps_not_updates():
    rates = rates_over(OptimConfig(learning_rate=0.4, warmup_steps=3, minibatch_rows=1), total=2, steps_per_update=2)
    assert [actor for actor, _ in rates] == pytest.approx([0.2, 0.4])


def test_decay_stays_in_range_beyond_the_planned_end():
    assert (decayed("linear", 1.5), decayed("cosine", 1.5)) == (0.0, 0.0)


def test_an_early_stop_ends_the_update_before_the_step():
    policy, rollout = small_policy(), seven_rows()
    optimizer = Optimizer(policy, OptimConfig(learning_rate=LARGE, epochs=5), total_iterations=1, seed=0)
    asked = []

    def stop(means):
        asked.append(means["seen"])
        return len(asked) == 3

    metrics = optimizer.descend(constant_loss(policy, rollout), rollout, stop=stop)
    assert (metrics["optimizer_steps"], metrics["early_stop"]) == (2, 1)
    reference = small_policy()
    two = Optimizer(reference, OptimConfig(learning_rate=LARGE, epochs=2), total_iterations=1, seed=0)
    two.descend(constant_loss(reference, rollout), rollout)
    assert distance(weights_of(policy), weights_of(reference)) == 0
    assert not any(p.grad.any() for p in optimizer.trainable)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_that_is_not_finite_is_an_error_and_changes_no_weight(broken, dtype):
    policy, rollout = small_policy(), seven_rows()
    optimizer = Optimizer(policy, OptimConfig(learning_rate=LARGE), total_iterations=1, seed=0, dtype=dtype)
    before = weights_of(policy)
    with pytest.raises(FloatingPointError, match=r"the loss of rows \[.*\] is (nan|-?inf)"):
        optimizer.descend(constant_loss(policy, rollout, broken), rollout)
    assert distance(before, weights_of(policy)) == 0
    assert optimizer.num_steps == 0


def test_a_gradient_that_is_not_finite_is_an_error_and_changes_no_weight():
    policy, rollout = small_policy(), seven_rows()
    optimizer = Optimizer(policy, OptimConfig(learning_rate=LARGE), total_iterations=1, seed=0)
    before = weights_of(policy)

    def loss(rows):
        logprob = policy.evaluate(rollout[rows]).logprob
        return TokenLoss((logprob * 0).sqrt())  # 0, with an infinite slope

    with pytest.raises(FloatingPointError, match=r"the gradient norm is (nan|inf)"):
        optimizer.descend(loss, rollout)
    assert distance(before, weights_of(policy)) == 0


def test_skipped_rows_keep_their_weight_in_the_mean():
    """Two rows of one token; one is skipped: the gradient is half of what the other alone would give."""
    rollout = make_rollout(prompts_of((3, 4)), [[9], [10]])
    policy = small_policy()
    weak = OptimConfig(learning_rate=0.0, max_grad_norm=1e9)
    half = Optimizer(policy, weak, total_iterations=1, seed=0).descend(
        constant_loss(policy, rollout), rollout, skip=torch.tensor([False, True])
    )
    alone = Optimizer(policy, weak, total_iterations=1, seed=0).descend(constant_loss(policy, rollout[:1]), rollout[:1])
    assert half["grad_norm"] == pytest.approx(alone["grad_norm"] / 2, rel=1e-5)


def test_a_step_far_below_the_resolution_of_bfloat16_is_kept():
    """Around 1 bfloat16 numbers are 2^-7 apart. 100 steps of 1e-4 move the parameter by one of them, not by none."""
    parameter = torch.nn.Parameter(torch.ones(3))
    weights = MasterWeights([("w", parameter)], torch.bfloat16)
    master = weights.masters["w"]
    assert parameter.dtype == torch.bfloat16
    assert master.dtype == torch.float32
    adam = torch.optim.AdamW([master], lr=1e-4, weight_decay=0.0)
    for step in range(1, 101):
        (-parameter.float().sum()).backward()
        adam.step()
        master.grad.zero_()
        weights.publish()
        assert master[0].item() == pytest.approx(1 + step * 1e-4, abs=1e-5)
        assert parameter[0] == master[0].bfloat16()
    assert parameter[0].item() == 1.0078125  # 1 + 2^-7


def test_bfloat16_learns_in_small_steps_what_float32_learns():
    rollout = seven_rows()
    small = 1e-6
    for dtype in (torch.float32, torch.bfloat16):
        policy = small_policy()
        optimizer = Optimizer(policy, OptimConfig(learning_rate=small), total_iterations=20, seed=0, dtype=dtype)
        start = {name: m.detach().clone() for name, m in optimizer.actor.masters.items()}
        for _ in range(20):
            optimizer.descend(constant_loss(policy, rollout), rollout)
        moved = distance(start, {name: m.detach() for name, m in optimizer.actor.masters.items()})
        assert 15 * small < moved < 22 * small


def test_the_value_head_stays_in_float32():
    policy = with_critic()
    Optimizer(policy, OptimConfig(), total_iterations=1, seed=0, dtype=torch.bfloat16)
    assert policy.value_head.linear.weight.dtype == torch.float32
    assert policy.model.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("separate", [False, True])
def test_a_state_that_was_loaded_goes_on_as_if_nothing_had_happened(dtype, separate, tmp_path):
    rollout = seven_rows()

    def agent():
        policy = with_critic(separate=separate)
        optim = OptimConfig(learning_rate=1e-3, epochs=2, minibatch_rows=3, decay="linear", warmup_steps=3)
        optimizer = Optimizer(policy, optim, total_iterations=4, seed=0, dtype=dtype)
        return PPO(PPOConfig(optim=optim, objective="penalty"), policy, optimizer)

    straight = agent()
    straight.update(rollout)
    torch.save(straight.state(), tmp_path / "state.pt")
    expected = straight.update(rollout)
    resumed = agent()
    resumed.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.update(rollout) == expected
    assert distance(weights_of(resumed.policy), weights_of(straight.policy)) == 0
