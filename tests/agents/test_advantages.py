import math

import pytest
import torch

from agents.advantages import (
    baselines,
    decoupled_advantages,
    explained_variance,
    gae,
    group_advantages,
    has_variance,
    returns_to_go,
    whiten,
    zero_variance_share,
)

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


GROUPS = torch.tensor([0, 0, 0, 1, 1, 2])
"""A group of three, a group of two, a row alone."""
RETURNS = (1.0, 0.0, 0.5, 3.0, 1.0, 7.0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("group", [0.5, 0.5, 0.5, 2.0, 2.0, 7.0]),
        ("leave_one_out", [0.25, 0.75, 0.5, 1.0, 3.0, 7.0]),  # (0 + .5) / 2, (1 + .5) / 2, (1 + 0) / 2; 1; 3
        ("batch", [12.5 / 6] * 6),
        ("none", [0.0] * 6),
    ],
)
def test_what_a_return_is_compared_with(kind, expected):
    assert baselines(tensor(*RETURNS), GROUPS, kind).tolist() == pytest.approx(expected)
    found = group_advantages(tensor(*RETURNS), GROUPS, baseline=kind, scale="none")
    assert found.tolist() == pytest.approx([r - b for r, b in zip(RETURNS, expected, strict=True)])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_leaving_one_out_is_the_groups_mean_times_n_over_n_minus_one(scale):
    out = group_advantages(tensor(*RETURNS), GROUPS, baseline="leave_one_out", scale=scale)
    mean = group_advantages(tensor(*RETURNS), GROUPS, baseline="group", scale=scale)
    torch.testing.assert_close(out[:3], mean[:3] * 3 / 2)
    torch.testing.assert_close(out[3:5], mean[3:5] * 2)
    assert out[5] == 0  # a group of one has no others


@pytest.mark.parametrize("kind", ["group", "leave_one_out", "batch"])
def test_where_all_returns_are_equal_nothing_is_left_exactly(kind):
    returns = torch.tensor([0.1] * 3, dtype=torch.float64)
    assert group_advantages(returns, GROUPS[:3], baseline=kind, scale="none").tolist() == [0, 0, 0]


def test_scale_batch_without_a_baseline_divides_by_the_std_around_the_mean():
    # 0, 2, 1, 1: variance .5
    found = group_advantages(tensor(0.0, 2.0, 1.0, 1.0), torch.arange(4), baseline="none", scale="batch")
    torch.testing.assert_close(found, tensor(0.0, 2.0, 1.0, 1.0) / math.sqrt(0.5))


@pytest.mark.parametrize("kind", ["group", "leave_one_out", "batch", "none"])
@pytest.mark.parametrize("rubbish", [NAN, math.inf])
def test_rows_that_are_not_valid_are_compared_with_nothing(kind, rubbish):
    valid = torch.tensor([True, True, False, True, True, True])
    alone = baselines(tensor(1.0, 0.0, 3.0, 1.0, 7.0), GROUPS[valid], kind)
    found = baselines(tensor(1.0, 0.0, rubbish, 3.0, 1.0, 7.0), GROUPS, kind, valid=valid)
    assert found[valid].tolist() == alone.tolist()
    assert found[2] == 0


def test_baselines_that_are_unknown_or_cannot_be_scaled_by_the_group_are_refused():
    with pytest.raises(ValueError, match="baseline must be one of group, leave_one_out, batch, none, got 'mean'"):
        baselines(tensor(1.0), torch.tensor([0]), "mean")
    for kind in ("batch", "none"):
        with pytest.raises(ValueError, match=f"scale=group needs a baseline of the group .*got {kind}"):
            group_advantages(tensor(1.0), torch.tensor([0]), baseline=kind)


def test_the_expected_gradient_without_bias_and_with_that_of_the_groups_mean():
    """Two actions of probability p and 1 - p, paid 1 and 0; the slope of E[R] in the first one's logit is p (1 - p).
    All groups of two are summed: leaving one out it comes out exactly, the group's mean leaves half of it."""
    p = 0.3
    slope = {0: 1 - p, 1: -p}  # of log p(action) in that logit
    chance = {0: p, 1: 1 - p}
    found = dict.fromkeys(("none", "leave_one_out", "group"), 0.0)
    for a in (0, 1):
        for b in (0, 1):
            returns = tensor(1.0 - a, 1.0 - b)
            for kind in found:
                x = group_advantages(returns, torch.zeros(2, dtype=torch.int64), baseline=kind, scale="none")
                found[kind] += chance[a] * chance[b] * (float(x[0]) * slope[a] + float(x[1]) * slope[b]) / 2
    truth = p * (1 - p)
    assert found == pytest.approx({"none": truth, "leave_one_out": truth, "group": truth / 2})


def test_each_part_counts_by_its_weight_whatever_the_size_of_its_numbers():
    # part 1: 1 0 1 0, standardized 1 -1 1 -1; part 2: 0 0 7 7, standardized -1 -1 1 1, weight .5
    # sums .5 -1.5 1.5 -.5; root mean square sqrt((.25 + 2.25 + 2.25 + .25) / 4) = sqrt(1.25)
    parts, weight = tensor([1.0, 0.0], [0.0, 0.0], [1.0, 7.0], [0.0, 7.0]), tensor([1.0, 0.5]).expand(4, 2)
    problem = torch.zeros(4, dtype=torch.int64)
    expected = tensor(0.5, -1.5, 1.5, -0.5) / math.sqrt(1.25)
    torch.testing.assert_close(decoupled_advantages(parts, weight, problem), expected)
    torch.testing.assert_close(decoupled_advantages(parts * tensor([1.0, 1e4]), weight, problem), expected)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(decoupled_advantages(parts[order], weight, problem), expected[order])


def test_answers_that_earn_the_same_sum_with_different_parts_are_told_apart():
    """A rare part and a common one, each worth 1: the sums of the first two rows are equal, their advantages not."""
    parts = tensor([1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0])
    weight, problem = torch.ones(5, 2), torch.zeros(5, dtype=torch.int64)
    together = group_advantages(parts.sum(1), problem)
    assert together[0] == together[1]
    apart = decoupled_advantages(parts, weight, problem)
    assert apart[0] > apart[1] > apart[4]


def test_a_part_that_does_not_vary_in_a_group_adds_exactly_nothing_to_it():
    parts = tensor([0.1, 1.0], [0.1, 1.0], [0.1, 1.0], [0.3, 0.0], [0.9, 1.0])
    problem, weight = torch.tensor([0, 0, 0, 1, 1]), torch.ones(5, 2)
    assert decoupled_advantages(parts, weight, problem)[:3].tolist() == [0, 0, 0]
    nothing = decoupled_advantages(torch.full((3, 2), 0.1), torch.ones(3, 2), problem[:3])
    assert nothing.tolist() == [0, 0, 0]


def test_with_one_part_of_groups_that_vary_it_is_the_plain_advantage():
    returns = tensor(0.0, 1.0, 3.0, 0.5, 2.0, 2.5)
    problem = torch.tensor([0, 0, 0, 1, 1, 1])
    plain = group_advantages(returns, problem)
    for weight in (1.0, 5.0):  # the last division takes it out again
        found = decoupled_advantages(returns[:, None], torch.full((6, 1), weight), problem)
        torch.testing.assert_close(found, plain)
    opposite = decoupled_advantages(returns[:, None], torch.full((6, 1), -1.0), problem)
    torch.testing.assert_close(opposite, -plain)


def test_parts_of_rows_that_are_not_valid_change_nothing():
    parts = tensor([1.0, 0.0], [NAN, math.inf], [0.0, 2.0], [0.0, 1.0])
    valid = torch.tensor([True, False, True, True])
    problem, weight = torch.zeros(4, dtype=torch.int64), torch.ones(4, 2)
    found = decoupled_advantages(parts, weight, problem, valid=valid)
    assert found[1] == 0
    alone = decoupled_advantages(parts[valid], weight[valid], problem[valid])
    assert found[valid].tolist() == alone.tolist()


def test_a_token_is_credited_with_what_is_paid_from_it_on():
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    reward = tensor([1.0, NAN, 2.0, 4.0], [0.5, 0.25, NAN, NAN])  # the second column: a tool's token
    assert returns_to_go(reward, mask).tolist() == [[7, 0, 6, 4], [0.75, 0.25, 0, 0]]


def test_which_groups_have_variance():
    valid = torch.tensor([True, True, True, True, True, True])
    returns = tensor(0.1, 0.1, 0.1, 3.0, 1.0, 7.0)
    assert has_variance(returns, GROUPS, valid).tolist() == [False, False, False, True, True, False]
    # the row that differs could not be graded
    valid[3] = False
    assert has_variance(returns, GROUPS, valid).tolist() == [False] * 6
