import math

import torch

from rewards.preference.losses import bradley_terry, centering


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


def test_half_precision_scores_give_a_float32_loss():
    assert bradley_terry(torch.ones(1).bfloat16(), torch.ones(1).bfloat16()).dtype == torch.float32


def test_centering_is_the_squared_sum():
    torch.testing.assert_close(
        centering(torch.tensor([2.0, 1.0]), torch.tensor([1.0, -1.0]), 0.01), torch.tensor([0.09, 0.0])
    )
