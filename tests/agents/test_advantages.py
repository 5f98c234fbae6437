import math

import pytest
import torch

from agents.advantages import explained_variance, gae, group_advantages, whiten, zero_variance_share

NAN = math.nan


def tensor(*numbers):
    return torch.tensor(numbers)


def test_worked_example_of_a_group():
    # mean 0.6; deviations .4 .2 -.2 -.4; population variance (.16+.04+.04+.16)/4 = .1; std .316228
    advantage = group_advantages(tensor(1.0, 0.8, 0.4, 0.2), torch.zeros(4, dtype=torch.int64))
    std = math.sqrt(0.1)
    torch.testing.assert_close(advantage, tensor(0.4 / std, 0.2 / std, -0.2 / std, -0.4 / std))
    torch.testing.assert_close(advantage, tensor(1.265, 0.632, -0.632, -1.265), atol=5e-4, rtol=0)


def test_groups_of_any_size_in_any_order():
    # group 7: 0, 1 -> mean .5 std .5; group 3: 1, 1, 4 -> mean 2, variance (1+1+4)/3 = 2; group -5: one row
    returns, problem = tensor(0.0, 1.0, 1.0, 9.0, 1.0, 4.0), torch.tensor([7, 3, 7, -5, 3, 3])
    expected = tensor(-1.0, -1 / math.sqrt(2), 1.0, 0.0, -1 / math.sqrt(2), 2 / math.sqrt(2))
    torch.testing.assert_close(group_advantages(returns, problem), expected)


def test_rows_of_another_order_give_the_same_advantages_in_that_order():
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(40, generator=generator)
    problem = torch.randint(0, 6, (40,), generator=generator)
    order = torch.randperm(40, generator=generator)
    for scale in ("group", "batch", "none"):
        straight = group_advantages(returns, problem, scale=scale)
        torch.testing.assert_close(group_advantages(returns[order], problem[order], scale=scale), straight[order])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_give_exact_zeros_although_their_float_std_does_not(scale):
    returns, problem = torch.tensor([0.1] * 3 + [0.0, 1.0], dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1])
    assert float(sum([0.1] * 3)) / 3 != 0.1  # what makes std > 0 a wrong test
    assert group_advantages(returns, problem, scale=scale)[:3].tolist() == [0.0, 0.0, 0.0]


def test_scale_batch_and_none():
    # groups {0, 2} and {1, 1}; batch mean 1, batch variance (1+1+0+0)/4 = .5
    returns, problem = tensor(0.0, 2.0, 1.0, 1.0), torch.tensor([0, 0, 1, 1])
    assert group_advantages(returns, problem, scale="none").tolist() == [-1, 1, 0, 0]
    root = math.sqrt(0.5)
    torch.testing.assert_close(group_advantages(returns, problem, scale="batch"), tensor(-1 / root, 1 / root, 0, 0))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf, 1e30])
def test_invalid_rows_get_zero_and_change_nothing(scale, rubbish):
    problem = torch.tensor([0, 0, 0, 1, 1, 2])
    valid = torch.tensor([True, False, True, True, False, False])
    advantage = group_advantages(tensor(0.0, rubbish, 1.0, 5.0, rubbish, rubbish), problem, scale=scale, valid=valid)
    alone = group_advantages(tensor(0.0, 1.0, 5.0), torch.tensor([0, 0, 1]), scale=scale)
    assert advantage[[0, 2, 3]].tolist() == alone.tolist()
    assert advantage[[1, 4, 5]].tolist() == [0, 0, 0]
    assert alone[2] == 0  # a group of one


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e30])
def test_rescaled_rewards_give_the_same_advantages(factor):
    returns, problem = tensor(1.0, 0.5, 0.25, 0.0).double(), torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(group_advantages(returns * factor, problem), group_advantages(returns, problem))
    torch.testing.assert_close(
        group_advantages(returns * 1e-200, problem), group_advantages(returns, problem), msg="squares would underflow"
    )


def test_arguments_are_refused_and_left_alone():
    returns, problem = tensor(1.0, 2.0), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="scale must be one of group, batch, none, got 'std'"):
        group_advantages(returns, problem, scale="std")
    with pytest.raises(ValueError, match="finite"):
        group_advantages(tensor(1.0, NAN), problem)
    group_advantages(returns, problem, valid=torch.tensor([True, False]))
    assert returns.tolist() == [1, 2]
    assert group_advantages(tensor(), torch.tensor([], dtype=torch.int64)).shape == (0,)


def test_zero_variance_share_counts_groups_with_a_valid_row():
    problem = torch.tensor([0, 0, 1, 1, 2, 2, 3])
    valid = torch.tensor([True, True, True, True, True, False, False])
    # group 0 equal, group 1 varied, group 2 one valid row, group 3 none: 2 of 3
    assert zero_variance_share(tensor(0.1, 0.1, 0.0, 1.0, 1.0, NAN, 0.0), problem, valid) == pytest.approx(2 / 3)
    assert zero_variance_share(tensor(1.0, 2.0), torch.tensor([0, 0])) == 0
    assert zero_variance_share(tensor(), torch.tensor([], dtype=torch.int64)) == 0


def test_worked_example_of_gae():
    # deltas: 0 + .99 * .3 - .25 = .047 and .5 - .3 = .2; advantage .047 + .99 * .95 * .2 = .2351
    advantage = gae(tensor([0.0, 0.5]), tensor([0.25, 0.3]), torch.ones(1, 2).bool(), gamma=0.99, lam=0.95)
    torch.testing.assert_close(advantage, tensor([0.047 + 0.9405 * 0.2, 0.2]))


def test_gae_without_discount_is_return_minus_value():
    reward, value = tensor([1.0, 2.0, 4.0]), tensor([0.5, 0.25, 0.125])
    advantage = gae(reward, value, torch.ones(1, 3).bool(), gamma=1.0, lam=1.0)
    assert advantage.tolist() == [[6.5, 5.75, 3.875]]


def test_injected_tokens_neither_decay_nor_interrupt_the_credit():
    gamma, lam = 0.9, 0.8
    plain = gae(tensor([1.0, 2.0, 3.0]), tensor([0.1, 0.2, 0.3]), torch.ones(1, 3).bool(), gamma=gamma, lam=lam)
    mask = torch.tensor([[True, False, False, True, False, True, False]])
    reward, value = (tensor([a, NAN, NAN, b, NAN, c, NAN]) for a, b, c in ((1.0, 2.0, 3.0), (0.1, 0.2, 0.3)))
    spread = gae(reward, value, mask, gamma=gamma, lam=lam)
    torch.testing.assert_close(spread[mask], plain[0], rtol=0, atol=0)
    assert spread[~mask].tolist() == [0, 0, 0, 0]


def test_final_value_bootstraps_after_the_last_policy_token_of_each_row():
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    reward, value = torch.zeros(3, 3), torch.zeros(3, 3)
    advantage = gae(reward, value, mask, gamma=0.5, lam=1.0, final_value=tensor(8.0, 0.0, NAN))
    # row 0: the last delta is .5 * 8 = 4, the one before gets .5 * 4
    assert advantage.tolist() == [[2, 4, 0], [0, 0, 0], [0, 0, 0]]


def test_gae_equals_the_sum_it_is_defined_by():
    generator = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, 6, generator=generator) < 0.6
    final = torch.randn(5, generator=generator, dtype=torch.float64)
    gamma, lam = 0.97, 0.9
    advantage = gae(reward, value, mask, gamma=gamma, lam=lam, final_value=final)
    for i in range(5):
        where = [a for a in range(6) if mask[i, a]]
        v = [float(value[i, a]) for a in where] + [float(final[i])]
        delta = [float(reward[i, a]) + gamma * v[t + 1] - v[t] for t, a in enumerate(where)]
        for t, a in enumerate(where):
            total = sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(where)))
            assert advantage[i, a] == pytest.approx(total)


def test_gae_refuses_a_discount_outside_the_unit_interval():
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="gamma must be between 0 and 1, got"):
        gae(x, x, x.bool(), gamma=1.5, lam=1.0)
    with pytest.raises(ValueError, match="lam must be between 0 and 1, got -1"):
        gae(x, x, x.bool(), gamma=1.0, lam=-1)
    assert gae(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0).bool(), gamma=1.0, lam=1.0).shape == (2, 0)


def test_whiten_uses_the_population_variance_of_valid_tokens():
    # 1, 3, 5: mean 3, variance 8/3
    x, mask = tensor([1.0, NAN], [3.0, 5.0]), torch.tensor([[True, False], [True, True]])
    unit = 2 / math.sqrt(8 / 3)
    torch.testing.assert_close(whiten(x, mask), tensor([-unit, 0.0], [0.0, unit]))
    torch.testing.assert_close(whiten(x, mask, shift_mean=False), tensor([3 - unit, 0.0], [3.0, 3 + unit]))


def test_whiten_is_safe_without_variance():
    assert whiten(tensor(5.0, NAN), torch.tensor([True, False])).tolist() == [0, 0]
    assert whiten(tensor(5.0, NAN), torch.tensor([True, False]), shift_mean=False).tolist() == [5, 0]
    assert whiten(tensor(NAN, math.inf), torch.tensor([False, False])).tolist() == [0, 0]
    assert whiten(tensor(0.1, 0.1, 0.1), torch.ones(3).bool()).abs().max() < 1e-6
    assert whiten(tensor(0.0, 1e-9), torch.ones(2).bool()).abs().max() < 1e-4  # noise stays noise


def test_explained_variance():
    mask = torch.tensor([True, True, True, False])
    target = tensor(1.0, 2.0, 3.0, NAN)
    assert explained_variance(tensor(1.0, 2.0, 3.0, NAN), target, mask) == 1
    assert explained_variance(tensor(2.0, 2.0, 2.0, NAN), target, mask) == 0
    # errors 0, 0, -1 (target - value): variance 2/9 over variance 2/3
    assert explained_variance(tensor(1.0, 2.0, 4.0, NAN), target, mask) == pytest.approx(1 - (2 / 9) / (2 / 3))
    assert explained_variance(tensor(3.0, 2.0, 1.0, NAN), target, mask) == -3
    assert math.isnan(explained_variance(tensor(1.0, 2.0), tensor(1.0, 1.0), torch.ones(2).bool()))
    assert math.isnan(explained_variance(target, target, torch.zeros(4).bool()))
