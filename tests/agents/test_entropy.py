"""Who sets the weight of the entropy bonus."""

import math

import pytest

from agents.entropy import FixedEntropy, TargetEntropy, control_state, entropy_control, restored


def test_without_a_target_the_weight_stays():
    control = entropy_control(0.01, None, step=0.005, most=1.0)
    assert control.update(0.0) is control
    assert (control.weight, control.wants_entropy) == (0.01, True)
    assert not FixedEntropy(0.0).wants_entropy


def test_the_coefficient_rises_below_the_target_and_falls_above_it():
    """Target 0.2, step 0.1: entropies 0.1, 0.1, 0.2, 0.3 make 0.1, 0.2, 0.2, 0.1."""
    control, found = TargetEntropy(0.0, target=0.2, step=0.1), []
    for entropy in (0.1, 0.1, 0.2, 0.3):
        control = control.update(entropy)
        found.append((control.coefficient, control.weight))
    assert found == [(0.1, 0.1), (0.2, 0.2), (0.2, 0.2), (0.1, 0.0)]


def test_the_coefficient_stays_between_zero_and_the_largest():
    low = high = TargetEntropy(0.25, target=0.2, step=0.1, most=0.4)
    for _ in range(5):
        low, high = low.update(9.0), high.update(0.0)
    assert (low.coefficient, high.coefficient) == (0.0, 0.4)


def test_nothing_acts_before_an_entropy_was_seen():
    control = TargetEntropy(0.3, target=0.2)
    assert control.weight == 0
    assert control.wants_entropy
    assert control.update(0.2).weight == 0.3


def test_what_a_checkpoint_keeps_restores_the_record():
    fresh = entropy_control(0.0, 0.2, step=0.1, most=1.0)
    control = fresh.update(0.1).update(0.3)
    assert restored(fresh, control_state(control)) == control
    fixed = FixedEntropy(0.5)
    assert restored(fixed, control_state(fixed)) == fixed


@pytest.mark.parametrize("entropy", [math.nan, math.inf])
def test_an_entropy_that_is_no_number_is_refused(entropy):
    with pytest.raises(ValueError, match="the entropy must be finite, got"):
        TargetEntropy(0.0, target=0.2).update(entropy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.0}, "target of the entropy must be positive, got 0.0"),
        ({"step": 0.0}, "step of the entropy's coefficient must be positive, got 0.0"),
        ({"coefficient": 2.0}, r"coefficient must be in \[0, 1.0\], got 2.0"),
    ],
)
def test_a_record_that_could_not_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TargetEntropy(**{"coefficient": 0.0, "target": 0.2} | settings)
