import math

import pytest
import torch

from agents.losses import (
    AGGREGATIONS,
    RATIOS,
    clipped_surrogate,
    entropy_bonus,
    log_ratio,
    masked_mean,
    penalty_surrogate,
    sampler_correction,
    surrogate_report,
    token_weights,
    value_loss,
    weighted_logprob,
    weighted_sum,
)

NAN = math.nan
CLIP = {"clip_low": 0.2, "clip_high": 0.2}


def tensor(*numbers, grad=False):
    return torch.tensor(numbers, requires_grad=grad)


def test_worked_example_of_the_clipped_surrogate():
    # ratio exp(.3) = 1.35, clipped 1.2, times .2: objective .24, loss its negative
    assert clipped_surrogate(tensor(-1.8), tensor(-2.1), tensor(0.2), **CLIP).item() == pytest.approx(-0.24)
    assert penalty_surrogate(tensor(-1.8), tensor(-2.1), tensor(0.2)).item() == pytest.approx(-0.2 * math.exp(0.3))


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),  # inside: ratio A, whose derivative in the log-probability is ratio A
        (1.1, -2.0, -2.2, -2.2),
        (1.5, 2.0, 2.6, 0.0),  # above with A > 0: clipped at 1.3
        (0.5, 2.0, 1.0, 1.0),  # below with A > 0: the minimum keeps it
        (0.5, -2.0, -1.8, 0.0),  # below with A < 0: clipped at .9
        (1.5, -2.0, -3.0, -3.0),  # above with A < 0: the minimum keeps it
    ],
)
def test_clip_by_side_and_sign(ratio, advantage, objective, slope):
    logprob = tensor(math.log(ratio) - 1, grad=True)
    loss = clipped_surrogate(logprob, tensor(-1.0), tensor(advantage), clip_low=0.1, clip_high=0.3)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-objective, rel=1e-6)
    assert logprob.grad.item() == pytest.approx(-slope, rel=1e-6)


def test_advantage_of_a_row_serves_all_its_tokens():
    old = torch.full((2, 2), -1.0)  # as many rows as columns: broadcasting must not run along the columns
    logprob, advantage = old + tensor([0.1, 0.0], [0.0, -0.1]), tensor(1.0, -1.0)
    expected = tensor([-math.exp(0.1), -1.0], [1.0, math.exp(-0.1)])
    for shaped in (advantage, advantage[:, None], advantage[:, None].expand(2, 2)):
        torch.testing.assert_close(clipped_surrogate(logprob, old, shaped, **CLIP), expected)
        torch.testing.assert_close(penalty_surrogate(logprob, old, shaped), expected)


def test_extreme_ratios_keep_values_and_gradients_finite():
    for distance, advantage in ((500.0, 1.0), (500.0, -1.0), (-500.0, 1.0), (-500.0, -1.0)):
        logprob = tensor(distance, grad=True)
        loss = clipped_surrogate(logprob, tensor(0.0), tensor(advantage), **CLIP)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logprob.grad.isfinite().all()


def test_only_the_new_logprob_carries_a_gradient():
    logprob, old, advantage = (tensor(x, grad=True) for x in (-1.0, -1.0, 2.0))
    (clipped_surrogate(logprob, old, advantage, **CLIP) + penalty_surrogate(logprob, old, advantage)).sum().backward()
    assert logprob.grad.item() == -4
    assert old.grad is None
    assert advantage.grad is None
    once = tensor(-1.0, grad=True)
    clipped_surrogate(once, once, tensor(2.0), **CLIP).sum().backward()  # the policy as its own old policy
    assert once.grad.item() == -2


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (1.2, 0.2), (0.2, -0.1), (NAN, 0.2), (0.2, NAN)])
def test_clip_range_is_checked(low, high):
    with pytest.raises(ValueError, match=r"clip_(low|high) must be"):
        clipped_surrogate(tensor(0.0), tensor(0.0), tensor(0.0), clip_low=low, clip_high=high)


def test_value_loss_kinds():
    value, target = tensor(1.0, 2.0, 5.0), tensor(0.0, 2.5, 1.0)
    torch.testing.assert_close(value_loss(value, target), tensor(0.5, 0.125, 8.0))
    # delta 1: .5, .125, 1 * (4 - .5); delta 2: .5, .125, 2 * (4 - 1)
    torch.testing.assert_close(value_loss(value, target, kind="huber"), tensor(0.5, 0.125, 3.5))
    torch.testing.assert_close(value_loss(value, target, kind="huber", delta=2.0), tensor(0.5, 0.125, 6.0))


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope"),
    [
        (1.1, 1.0, 2.0, 0.405, -0.9),  # within the clip: plain
        (1.5, 1.0, 2.0, 0.32, 0.0),  # moved towards the target beyond it: max(.125, .8^2 / 2), no gradient
        (0.5, 1.0, 2.0, 1.125, -1.5),  # moved away: the plain loss is the larger
    ],
)
def test_clipped_value_loss_is_the_larger_of_both(value, old, target, loss, slope):
    v = tensor(value, grad=True)
    actual = value_loss(v, tensor(target), old_value=tensor(old), clip=0.2)
    actual.sum().backward()
    assert actual.item() == pytest.approx(loss, rel=1e-5)
    assert v.grad.item() == pytest.approx(slope, rel=1e-5)


def test_value_loss_refuses_what_cannot_be():
    x = tensor(0.0)
    with pytest.raises(ValueError, match=r"clip=0\.2 needs old_value"):
        value_loss(x, x, clip=0.2)
    with pytest.raises(ValueError, match="clip must be positive or None, got 0"):
        value_loss(x, x, old_value=x, clip=0)
    with pytest.raises(ValueError, match="kind must be squared or huber, got 'l1'"):
        value_loss(x, x, kind="l1")
    with pytest.raises(ValueError, match="delta must be positive, got 0"):
        value_loss(x, x, kind="huber", delta=0)


def losses(mask=None):
    """Each differentiable loss as a function of its one differentiable argument."""
    generator = torch.Generator().manual_seed(3)
    old, advantage, target = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    fill = {} if mask is None else {"mask": mask}
    if mask is not None:
        old, advantage, target = (torch.where(mask, x, NAN) for x in (old, advantage, target))
    return {
        "clipped": lambda x: clipped_surrogate(old + 0.3 * x, old, advantage, **CLIP, **fill),
        "penalty": lambda x: penalty_surrogate(old + 0.3 * x, old, advantage, **fill),
        "squared": lambda x: value_loss(x, target, **fill),
        "clipped value": lambda x: value_loss(x, target, old_value=x.detach() + old / 3, clip=0.3, **fill),
        "huber": lambda x: value_loss(x, target, kind="huber", delta=0.7, **fill),
        "entropy": lambda x: entropy_bonus(x, coefficient=0.01, **fill),
    }


def argument():
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("name", losses())
def test_gradients_agree_with_finite_differences(name):
    loss, x = losses()[name], argument().requires_grad_()
    if name == "clipped value":
        old = x.detach() + 0.2
        target = x.detach() * 0.3
        assert torch.autograd.gradcheck(lambda x: value_loss(x, target, old_value=old, clip=0.3), x)
    else:
        assert torch.autograd.gradcheck(loss, x)


@pytest.mark.parametrize("name", losses())
@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf])
def test_rubbish_in_masked_slots_changes_neither_values_nor_gradients(name, rubbish):
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(5)) < 0.5
    clean, dirty = argument().requires_grad_(), torch.where(mask, argument(), rubbish).requires_grad_()
    expected, actual = losses()[name](clean), losses(mask)[name](dirty)
    (weight,) = torch.autograd.grad(expected.sum(), clean)
    (masked_weight,) = torch.autograd.grad(actual.sum(), dirty)
    torch.testing.assert_close(actual, torch.where(mask, expected, 0.0), rtol=0, atol=0)
    torch.testing.assert_close(masked_weight, torch.where(mask, weight, 0.0), rtol=0, atol=0)


MASK = torch.tensor([[True, True, True, False], [True, False, False, False], [False, False, False, False]])


def test_token_weights_by_hand():
    # four tokens in two rows that count
    assert token_weights(MASK, "token_mean").tolist() == [[0.25, 0.25, 0.25, 0], [0.25, 0, 0, 0], [0, 0, 0, 0]]
    sequence = token_weights(MASK, "sequence_mean")
    torch.testing.assert_close(sequence, tensor([1 / 6, 1 / 6, 1 / 6, 0], [1 / 2, 0, 0, 0], [0.0, 0, 0, 0]))
    # 1 / (3 rows x 5 tokens)
    torch.testing.assert_close(token_weights(MASK, "constant", max_tokens=5), MASK / 15)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_token_weights_of_nothing_are_zeros(aggregation):
    assert token_weights(torch.zeros(2, 3).bool(), aggregation, max_tokens=3).tolist() == [[0] * 3] * 2
    assert token_weights(torch.zeros(0, 3).bool(), aggregation, max_tokens=3).shape == (0, 3)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_padding_row_order_and_microbatches_do_not_change_the_weighted_sum(aggregation):
    loss = torch.where(MASK, torch.arange(12.0, dtype=torch.float64).reshape(3, 4), NAN)
    weight = token_weights(MASK, aggregation, max_tokens=4).double()
    whole = weighted_sum(loss, weight)
    torch.testing.assert_close(sum(weighted_sum(loss[i : i + 1], weight[i : i + 1]) for i in range(3)), whole)
    wide_loss, wide_mask = (torch.cat((x, torch.full((3, 2), pad)), 1) for x, pad in ((loss, NAN), (MASK, False)))
    wide = weighted_sum(wide_loss, token_weights(wide_mask, aggregation, max_tokens=4).double())
    torch.testing.assert_close(wide, whole, rtol=1e-6, atol=0)
    flipped = weighted_sum(loss.flip(0), token_weights(MASK.flip(0), aggregation, max_tokens=4).double())
    torch.testing.assert_close(flipped, whole, rtol=1e-6, atol=0)


def test_weighted_sum_by_hand_with_its_gradient():
    loss = tensor(1.0, NAN, 3.0, grad=True)
    total = weighted_sum(loss, tensor(0.5, 0.0, 0.25))
    total.backward()
    assert total.item() == 1.25
    assert loss.grad.tolist() == [0.5, 0, 0.25]


def test_token_weights_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="of token_mean, sequence_mean, sequence_sum, constant, got 'mean'"):
        token_weights(MASK, "mean")
    with pytest.raises(ValueError, match="max_tokens of at least 1, got None"):
        token_weights(MASK, "constant")


def test_a_surrogate_reports_only_what_the_clip_removed():
    ratio = tensor([0.5, 0.5, 1.0, 1.5], [1.5, 1.5, 0.5, NAN])
    advantage = tensor([-1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, 0.0, NAN])
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])
    report = surrogate_report(ratio.log(), torch.zeros(2, 4), advantage, mask, **CLIP)
    # Low: 0.5 with A = -1. High: 1.5 with A = 1, twice. The other way round the minimum does not clip.
    assert masked_mean(report["clip_ratio/low"], mask).item() == pytest.approx(1 / 7)
    assert masked_mean(report["clip_ratio/high"], mask).item() == pytest.approx(2 / 7)
    assert masked_mean(report["clip_ratio"], mask).item() == pytest.approx(3 / 7)
    assert masked_mean(report["ratio/mean"], mask).item() == pytest.approx(7 / 7)


def test_the_reported_kl_by_hand():
    # ratios 2 and 1/2: (2 - 1 - log 2) and (.5 - 1 + log 2), whose mean is .25
    logprob, mask = tensor([math.log(2), -math.log(2), NAN]), torch.tensor([[True, True, False]])
    report = surrogate_report(logprob, torch.zeros(1, 3), torch.ones(1), mask, **CLIP)
    assert masked_mean(report["approx_kl"], mask).item() == pytest.approx(0.25)


def test_masked_mean():
    assert masked_mean(tensor(1.0, 3.0, NAN), torch.tensor([True, True, False])) == 2
    assert masked_mean(tensor(NAN), torch.tensor([False])) == 0


def test_a_token_that_the_sampler_found_too_likely_weighs_less_and_none_weighs_more_than_the_cap():
    """exp(-1 + 0.5) = 0.6065, exp(0) = 1, exp(1.5) = 4.48 -> 2; outside the mask whatever stands there is not read."""
    old, sampled = torch.tensor([[-1.0, -2.0, -0.5, NAN]]), torch.tensor([[-0.5, -2.0, -2.0, -math.inf]])
    mask = torch.tensor([[True, True, True, False]])
    weight = sampler_correction(old, sampled, cap=2.0, mask=mask)
    assert weight[0].tolist() == pytest.approx([0.6065, 1.0, 2.0, 1.0], abs=1e-4)
    with pytest.raises(ValueError, match=r"sampler_correction must be at least 1 .*got 0.5"):
        sampler_correction(old, sampled, cap=0.5)


# A row whose tokens have moved by +.3 and -.1 (and one that is not the policy's), beside a row of one token at +.2.
MOVED = ([0.3, -0.1, NAN], [0.2, NAN, NAN])
MOVED_MASK = torch.tensor([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("token", [[0.3, -0.1, 0.0], [0.2, 0.0, 0.0]]),
        ("sequence", [[0.1, 0.1, 0.0], [0.2, 0.0, 0.0]]),  # the mean of .3 and -.1
        ("product", [[0.2, 0.2, 0.0], [0.2, 0.0, 0.0]]),  # their sum
    ],
)
def test_the_ratio_of_a_token_of_a_rows_mean_and_of_a_whole_row(level, expected):
    found = log_ratio(tensor(*MOVED), torch.zeros(2, 3), level, mask=MOVED_MASK)
    torch.testing.assert_close(found, tensor(*expected))


@pytest.mark.parametrize(
    ("level", "objective", "slopes"),
    [
        # With A = 2 and a mean over rows the row's loss is -2 ratio, for
        # sequence: ratio exp(.1), of which each token holds half; product: ratio exp(.2), of which each holds all.
        ("sequence", 2 * math.exp(0.1), [-math.exp(0.1)] * 2),
        ("product", 2 * math.exp(0.2), [-2 * math.exp(0.2)] * 2),
    ],
)
def test_the_loss_and_the_slopes_of_a_rows_ratio(level, objective, slopes):
    logprob, mask = tensor([0.3, -0.1], grad=True), torch.ones(1, 2).bool()
    old, advantage = torch.zeros(1, 2), tensor(2.0)
    clip = {"clip_low": 0.3, "clip_high": 0.3}
    loss = clipped_surrogate(logprob, old, advantage, level=level, mask=mask, **clip)
    total = weighted_sum(loss, token_weights(mask, "sequence_mean"))
    total.backward()
    assert total.item() == pytest.approx(-objective)
    assert logprob.grad[0].tolist() == pytest.approx(slopes)


def test_a_rows_ratio_is_clipped_as_a_whole_and_counted_so():
    """Row 1: exp(.1) is above 1.05, so both tokens are clipped, the second one's own ratio of exp(-.1) or not. Row 2:
    exp(.2) with A < 0 is left free. One ratio a token would clip the first token alone."""
    logprob, old, advantage = tensor(*MOVED, grad=True), torch.zeros(2, 3), tensor(1.0, -1.0)
    clip = {"clip_low": 0.05, "clip_high": 0.05}
    clipped_surrogate(logprob, old, advantage, level="sequence", mask=MOVED_MASK, **clip).sum().backward()
    assert logprob.grad[0].tolist() == [0, 0, 0]
    assert logprob.grad[1, 0].item() == pytest.approx(math.exp(0.2))
    report = surrogate_report(logprob, old, advantage, MOVED_MASK, level="sequence", **clip)
    assert report["clip_ratio/high"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert report["clip_ratio"].tolist() == [[1, 1, 0], [0, 0, 0]]
    torch.testing.assert_close(report["ratio/mean"][0, :2], tensor(math.exp(0.1), math.exp(0.1)))
    by_token = surrogate_report(logprob, old, advantage, MOVED_MASK, **clip)
    assert by_token["clip_ratio/high"].tolist() == [[1, 0, 0], [0, 0, 0]]
    # the distance from the old policy is of tokens, whatever is clipped
    torch.testing.assert_close(report["approx_kl"], by_token["approx_kl"], rtol=0, atol=0)


def test_in_rows_of_one_token_all_ratios_are_the_same():
    old = torch.linspace(-2, -1, 5)[:, None]
    logprob, advantage = old + torch.linspace(-0.5, 0.5, 5)[:, None], tensor(1.0, -1.0, 2.0, -2.0, 1.0)
    for function in (clipped_surrogate, weighted_logprob):
        token, sequence, product = (
            function(logprob, old, advantage, level=level, mask=torch.ones(5, 1).bool(), **CLIP)
            for level in ("token", "sequence", "product")
        )
        torch.testing.assert_close(sequence, token, rtol=0, atol=0)
        torch.testing.assert_close(product, token, rtol=0, atol=0)


@pytest.mark.parametrize("level", ["sequence", "product"])
def test_the_gradient_of_a_rows_ratio_is_that_of_finite_differences(level):
    generator = torch.Generator().manual_seed(1)
    old, move = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    advantage = tensor(1.0, -2.0, 0.5).double()
    weight = token_weights(MASK, "sequence_mean").double()

    def total(x):
        return weighted_sum(clipped_surrogate(old + x, old, advantage, level=level, mask=MASK, **CLIP), weight)

    assert torch.autograd.gradcheck(total, (0.02 * move).requires_grad_())


def test_at_the_first_step_the_product_of_rows_is_the_policy_gradient_of_tokens():
    """A mean over rows of the whole ratio, and the sum over tokens of each one's: both slopes are -A / N a token."""
    old, advantage = torch.zeros(3, 4), tensor(1.0, -2.0, 0.5)
    slopes = {}
    for level, aggregation in (("product", "sequence_mean"), ("token", "sequence_sum")):
        logprob = torch.zeros(3, 4, requires_grad=True)
        loss = penalty_surrogate(logprob, old, advantage, level=level, mask=MASK)
        weighted_sum(loss, token_weights(MASK, aggregation)).backward()
        slopes[level] = logprob.grad
    num_rows = MASK.any(1).sum()
    torch.testing.assert_close(slopes["product"], slopes["token"])
    torch.testing.assert_close(slopes["token"], torch.where(MASK, -advantage[:, None] / num_rows, 0.0))


def test_the_sum_over_a_rows_tokens_is_divided_by_the_rows_that_have_any():
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    expected = [[0.5, 0.5, 0.5], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert token_weights(mask, "sequence_sum").tolist() == expected


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.0, 2.0, 1.0), (0.1, 1.0, 0.1), (4.0, -1.0, 4.0), (9.0, 1.0, 5.0), (9.0, -1.0, 5.0)],
)
def test_cispo_weighs_the_gradient_by_a_ratio_of_at_most_five_and_never_drops_a_token(ratio, advantage, weight):
    """clip_high=4 is a distance: the largest weight is 5; clip_low=1: there is no smallest. On policy the weight is 1
    (a peer's default reads the number as the weight itself, .2)."""
    logprob = tensor(math.log(ratio) - 3, grad=True)
    loss = weighted_logprob(logprob, tensor(-3.0), tensor(advantage), clip_low=1.0, clip_high=4.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-weight * advantage * (math.log(ratio) - 3), rel=1e-6)
    assert logprob.grad.item() == pytest.approx(-weight * advantage, rel=1e-6)


def test_a_weight_counts_as_clipped_whatever_the_sign_of_the_advantage():
    logprob, mask = tensor([0.5, 1.5, 1.5, 1.0, 0.5]).log(), torch.ones(1, 5).bool()
    advantage = tensor([1.0, -1.0, 0.0, 1.0, -1.0])
    old = torch.zeros(1, 5)
    cispo = surrogate_report(logprob, old, advantage, mask, objective="cispo", **CLIP)
    assert cispo["clip_ratio/low"].tolist() == [[1, 0, 0, 0, 1]]
    assert cispo["clip_ratio/high"].tolist() == [[0, 1, 0, 0, 0]]
    plain = surrogate_report(logprob, old, advantage, mask, objective="plain", **CLIP)
    assert plain["clip_ratio"].sum() == 0
    capped = surrogate_report(logprob, old, advantage, mask, ratio_cap=1.3, **CLIP)
    assert capped["clip_ratio/cap"].tolist() == [[0, 1, 0, 0, 0]]
    assert capped["clip_ratio"].tolist() == [[0, 1, 0, 0, 1]]


def test_another_level_is_refused():
    with pytest.raises(ValueError, match="level must be one of token, sequence, product, got 'row'"):
        log_ratio(tensor(0.0), tensor(0.0), "row")


@pytest.mark.parametrize("level", RATIOS)
@pytest.mark.parametrize("function", [clipped_surrogate, weighted_logprob])
@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf])
def test_rubbish_in_masked_slots_does_not_enter_a_rows_ratio(level, function, rubbish):
    old, move = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    advantage = tensor(1.0, -2.0, 0.5).double()
    results = []
    for fill in (0.0, rubbish):
        logprob = torch.where(MASK, old + move / 9, fill).requires_grad_()
        loss = function(logprob, torch.where(MASK, old, fill), advantage, level=level, mask=MASK, **CLIP)
        loss.sum().backward()
        results.append((loss.detach(), logprob.grad))
    for clean, dirty in zip(*results, strict=True):
        torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
