import itertools
import math

import pytest
import torch

from rewards.preference.losses import ABSENT, all_pairs, bradley_terry, centering, plackett_luce

LN_321 = [math.log(3), math.log(2), 0.0]
"""Scores with which a softmax is easy: chances 3, 2 and 1."""


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def places(*values):
    return torch.tensor(values)


def test_bradley_terry_is_minus_the_log_of_the_chance_that_the_chosen_one_wins():
    losses = bradley_terry(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, math.log(3)]))
    # sigmoid(0) = 1/2; sigmoid(1) = 0.731059; sigmoid(-ln 3) = 1/4
    torch.testing.assert_close(losses, torch.tensor([math.log(2), 0.313262, math.log(4)]))


def test_a_margin_asks_for_that_much_more():
    chosen, rejected = torch.tensor([2.0, 5.0]), torch.tensor([1.0, 1.0])
    margins = torch.tensor([1.0, 4.0])
    torch.testing.assert_close(bradley_terry(chosen, rejected, margins), torch.full((2,), math.log(2)))
    torch.testing.assert_close(bradley_terry(chosen, rejected, 1.0), torch.tensor([math.log(2), 0.048587]))


def test_gradient_is_the_chance_of_being_wrong():
    chosen = torch.tensor([0.0], requires_grad=True)
    bradley_terry(chosen, torch.tensor([math.log(3)])).sum().backward()
    torch.testing.assert_close(chosen.grad, torch.tensor([-0.75]))


def test_huge_differences_stay_finite():
    losses = bradley_terry(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4]))
    assert losses.tolist() == [0.0, 2e4]
    assert plackett_luce(rows([1e4, -1e4], [-1e4, 1e4]), places([0, 1], [0, 1]), ties="drop").tolist() == [0.0, 2e4]


def test_half_precision_scores_give_a_float32_loss():
    assert bradley_terry(torch.ones(1).bfloat16(), torch.ones(1).bfloat16()).dtype == torch.float32
    half, place = torch.ones(1, 2).bfloat16(), places([0, 1])
    assert all_pairs(half, place, ties="drop").dtype == torch.float32
    assert plackett_luce(half, place, ties="drop").dtype == torch.float32


def test_all_pairs_of_a_ranking_are_one_mean():
    # differences 1, 2 and 1: -log sigmoid is 0.313262, 0.126928, 0.313262
    loss = all_pairs(rows([2.0, 1.0, 0.0]), places([0, 1, 2]), ties="drop")
    torch.testing.assert_close(loss, torch.tensor([(0.313262 + 0.126928 + 0.313262) / 3]))


def test_a_ranking_of_two_is_a_pair_for_either_loss_and_padding_changes_nothing():
    score, place = rows([2.0, 1.0, 9.0], [3.0, 0.0, -1.0]), places([0, 1, ABSENT], [0, 1, 2])
    pair = bradley_terry(torch.tensor(2.0), torch.tensor(1.0))
    for loss in (all_pairs, plackett_luce):
        both = loss(score, place, ties="drop")
        torch.testing.assert_close(both[0], pair)
        torch.testing.assert_close(both[1:], loss(score[1:], place[1:], ties="drop"))


def test_margins_add_up_from_place_to_place():
    # steps of 1 and 2: levels 3, 2, 0; what is left of the differences 2, 4, 2 is 1, 1, 0
    loss = all_pairs(rows([4.0, 2.0, 0.0]), places([0, 1, 2]), rows([3.0, 2.0, 0.0]), ties="drop")
    torch.testing.assert_close(loss, torch.tensor([(2 * 0.313262 + math.log(2)) / 3]))


def test_tied_pairs_are_dropped_or_count_half_for_either_order():
    score, place = rows([1.0, 0.0, -1.0]), places([0, 0, 1])
    torch.testing.assert_close(all_pairs(score, place, ties="drop"), torch.tensor([(0.126928 + 0.313262) / 2]))
    tie = (0.313262 + 1.313262) / 2
    torch.testing.assert_close(all_pairs(score, place, ties="half"), torch.tensor([(0.126928 + 0.313262 + tie) / 3]))


@pytest.mark.parametrize("loss", [all_pairs, plackett_luce])
def test_a_ranking_that_ties_everything_teaches_nothing_or_that_scores_are_equal(loss):
    place = places([0, 0])
    assert loss(rows([3.0, 1.0]), place, ties="drop").item() == pytest.approx(0.0, abs=1e-6)
    equal, apart = (loss(rows(score), place, ties="half").item() for score in ([1.0, 1.0], [2.0, 0.0]))
    assert equal == pytest.approx(math.log(2))
    assert apart == pytest.approx((0.126928 + 2.126928) / 2, abs=1e-5)


def test_plackett_luce_is_minus_the_log_of_the_ranking_s_probability():
    # chances 3, 2, 1: 3/6 x 2/3 = 1/3 in this order, 1/6 x 2/5 = 1/15 in the reverse one
    loss = plackett_luce(rows(LN_321, LN_321), places([0, 1, 2], [2, 1, 0]), ties="drop")
    torch.testing.assert_close(loss, torch.tensor([math.log(3), math.log(15)]))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_probabilities_of_all_rankings_sum_to_one(size):
    orders = places(*itertools.permutations(range(size)))
    score = torch.randn(size, generator=torch.Generator().manual_seed(0)).expand(len(orders), size)
    assert plackett_luce(score, orders, ties="drop").neg().exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("loss", [all_pairs, plackett_luce])
@pytest.mark.parametrize("ties", ["drop", "half"])
def test_neither_the_order_of_the_columns_nor_a_shift_of_all_scores_matters(loss, ties):
    score, place = rows([0.3, -1.0, 2.0, 0.7]), places([1, 0, 1, 2])
    expected = loss(score, place, ties=ties)
    for order in itertools.permutations(range(4)):
        torch.testing.assert_close(loss(score[:, order], place[:, order], ties=ties), expected)
    torch.testing.assert_close(loss(score + 5, place, ties=ties), expected)


def test_tied_responses_compete_with_those_below_alone():
    # chances 3 and 2 tied above 1: 3/(3+1) x 2/(2+1) = 1/2
    loss = plackett_luce(rows(LN_321), places([0, 0, 1]), ties="drop")
    torch.testing.assert_close(loss, torch.tensor([math.log(2)]))


def test_half_a_tie_is_the_mean_over_all_orders_that_agree():
    # 3, 2, 1 has the probability 1/3; 2, 3, 1 has 2/6 x 3/4 = 1/4
    loss = plackett_luce(rows(LN_321), places([0, 0, 1]), ties="half")
    torch.testing.assert_close(loss, torch.tensor([(math.log(3) + math.log(4)) / 2]))


@pytest.mark.parametrize("place", [[0, 0, 0, 1, 1], [0, 1, 1, 1, 2], [0, 0, 0, 0, 0]])
def test_half_ties_agree_with_the_orders_written_out(place):
    score = torch.randn(5, generator=torch.Generator().manual_seed(1))
    orders = [order for order in itertools.permutations(range(5)) if [place[i] for i in order] == sorted(place)]
    ranked = plackett_luce(score[torch.tensor(orders)], torch.arange(5).expand(len(orders), 5), ties="drop")
    found = plackett_luce(score[None], places(place), ties="half")
    torch.testing.assert_close(found[0], ranked.mean())


def test_gradient_of_plackett_luce_by_hand():
    # equal scores: the first is drawn with 1/3, the second of what is left with 1/2
    score = torch.zeros(1, 3, requires_grad=True)
    plackett_luce(score, places([0, 1, 2]), ties="drop").sum().backward()
    torch.testing.assert_close(score.grad, rows([1 / 3 - 1, 1 / 3 + 1 / 2 - 1, 1 / 3 + 1 / 2 + 1 - 1]))


@pytest.mark.parametrize("loss", [all_pairs, plackett_luce])
@pytest.mark.parametrize("ties", ["drop", "half"])
def test_gradients_agree_with_differences_and_padding_has_none(loss, ties):
    score = rows([0.3, -1.0, 2.0, 0.7], [1.0, -0.5, 7.0, 7.0]).requires_grad_()
    place = places([0, 1, 1, 2], [0, 1, ABSENT, ABSENT])
    loss(score, place, ties=ties).sum().backward()
    assert score.grad[1, 2:].tolist() == [0.0, 0.0]
    step, detached = 1e-2, score.detach()
    for index in itertools.product(range(2), range(4)):
        shift = torch.zeros(2, 4).index_put(tuple(torch.tensor([i]) for i in index), torch.tensor(step))
        upper, lower = (loss(detached + sign * shift, place, ties=ties).sum() for sign in (1, -1))
        assert score.grad[index].item() == pytest.approx(((upper - lower) / (2 * step)).item(), abs=2e-3)


def test_centering_is_the_square_of_twice_the_mean():
    score = rows([2.0, 1.0, 0.0], [1.0, -1.0, 0.0], [3.0, 2.0, -2.0])
    place = places([0, 1, ABSENT], [0, 1, ABSENT], [0, 1, 2])
    torch.testing.assert_close(centering(score, place, 0.01), torch.tensor([0.09, 0.0, 0.04]))
