import math
import pickle

import pytest

from rewards.listener import Listener
from rewards.scoring import Scorer
from rewards.types import Sample


def test_worth_by_hand():
    listener = Listener(patience=2, boredom=5.0, seed=3)
    w, s = listener.worth, listener.step
    # five notes; the third and fourth a are beyond the second
    notes, steps = 4 * w["a"] + w["b"], s["x", "a"] + 3 * s["a", "a"] + s["a", "b"]
    score = listener("wx", "aaaab")
    assert score.value == pytest.approx((notes + steps - 5 * 2) / math.sqrt(5))
    assert score.metrics == {"repeats": 2.0}
    assert listener("wx", "aab").metrics == {"repeats": 0.0}


def test_silence_and_strange_characters_are_worth_nothing():
    listener = Listener()
    assert listener("ab", "").value == 0.0
    assert listener("ab", "§ 7").value == 0.0
    assert listener("", "a").value == listener.worth["a"]


def test_a_taste_depends_on_its_seed_alone():
    assert Listener(seed=1)("ab", "cde") == Listener(seed=1)("ab", "cde") != Listener(seed=2)("ab", "cde")
    assert pickle.loads(pickle.dumps(Listener()))("ab", "cde") == Listener()("ab", "cde")
    assert Listener(patience=None)("ab", "c" * 20).metrics == {"repeats": 0.0}


def test_it_is_a_reward():
    verdict = Scorer({"listener": Listener(seed=1)}).score([Sample("ab", "cde")])[0]
    assert verdict.value == Listener(seed=1)("ab", "cde").value


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"steps": -1.0}, "steps must be at least 0, got -1"),
        ({"boredom": float("nan")}, "boredom must be at least 0, got nan"),
        ({"patience": 0}, "patience must be at least 1 or null, got 0"),
    ],
)
def test_settings_out_of_range_are_named(setting, rule):
    with pytest.raises(ValueError, match=rule):
        Listener(**setting)
