import numpy as np
import pytest

from rewards import LengthPenalty, Sample, Scorer, SoftOverlong


@pytest.mark.parametrize(
    ("num_tokens", "value"),
    # L_max = 20480, L_cache = 4096 as in the paper: free up to 16384, then (16384 - L) / 4096
    [(1, 0.0), (16384, 0.0), (17408, -0.25), (18432, -0.5), (20480, -1.0), (20481, -1.0)],
)
def test_soft_overlong_punishment_is_equation_13_of_dapo(num_tokens, value):
    reward = SoftOverlong(max_tokens=20480, cache_tokens=4096)
    assert reward(completion="x", completion_ids=np.zeros(num_tokens, dtype=np.int32)).value == value


def test_tokens_count_where_the_caller_has_them_and_are_estimated_where_not():
    reward = SoftOverlong(max_tokens=10, cache_tokens=4, characters_per_token=2.0)
    known = reward(completion="a" * 1000, completion_ids=[1] * 7)  # (6 - 7) / 4
    assert (known.value, known.metrics) == (-0.25, {"length": 7.0, "estimated": 0.0})
    guessed = reward(completion="a" * 16)  # 16 / 2 = 8 tokens: (6 - 8) / 4
    assert (guessed.value, guessed.metrics) == (-0.5, {"length": 8.0, "estimated": 1.0})
    assert guessed.info["reason"] == "about 8 tokens, 2 outside"


@pytest.mark.parametrize(
    ("settings", "length", "value"),
    [
        ({"max_length": 10, "margin": 5}, 10, 0.0),
        ({"max_length": 10, "margin": 5}, 12, -0.4),
        ({"max_length": 10, "margin": 5}, 15, -1.0),
        ({"max_length": 10, "margin": 5}, 999, -1.0),
        ({"max_length": 10, "margin": 0}, 10, 0.0),
        ({"max_length": 10, "margin": 0}, 11, -1.0),
        ({"min_length": 8, "margin": 4}, 8, 0.0),
        ({"min_length": 8, "margin": 4}, 7, -0.25),
        ({"min_length": 8, "margin": 4}, 0, -1.0),
        ({"min_length": 8, "margin": 4}, 10**5, 0.0),
        ({"min_length": 5, "max_length": 5, "margin": 10}, 4, -0.1),
    ],
)
def test_a_window_of_lengths_and_a_straight_line_outside(settings, length, value):
    assert LengthPenalty(unit="characters", **settings)(completion="x" * length).value == pytest.approx(value)


def test_words_are_runs_of_non_space():
    assert LengthPenalty(max_length=2, margin=4, unit="words")(completion=" one\ttwo \n three ").value == -0.25


def test_a_scorer_gives_it_the_tokens():
    parts = {"short": SoftOverlong(max_tokens=4, cache_tokens=2)}
    samples = [Sample("", "aaaaaaaa", completion_ids=np.arange(n)) for n in (2, 3, 4)]
    assert [verdict.value for verdict in Scorer(parts).score(samples)] == [0.0, -0.5, -1.0]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (LengthPenalty, {}, "min_length or max_length must be given"),
        (LengthPenalty, {"min_length": 5, "max_length": 4}, r"max_length must be at least min_length \(5\), got 4"),
        (LengthPenalty, {"min_length": -1}, "min_length must be at least 0 and finite, got -1"),
        (LengthPenalty, {"max_length": 4, "margin": float("inf")}, "margin must be at least 0 and finite, got inf"),
        (LengthPenalty, {"max_length": float("nan")}, "max_length must be at least min_length"),
        (LengthPenalty, {"max_length": 4, "unit": "lines"}, "unit must be one of tokens, characters, words"),
        (SoftOverlong, {"max_tokens": 0, "cache_tokens": 1}, "max_tokens must be at least 1, got 0"),
        (SoftOverlong, {"max_tokens": 4, "cache_tokens": 5}, r"cache_tokens must be from 1 to max_tokens \(4\), got 5"),
        (SoftOverlong, {"max_tokens": 4, "cache_tokens": 0}, r"cache_tokens must be from 1 to max_tokens \(4\), got 0"),
        (
            SoftOverlong,
            {"max_tokens": 4, "cache_tokens": 1, "characters_per_token": 0},
            "characters_per_token must be above 0 and finite, got 0",
        ),
    ],
)
def test_a_wrong_setting_is_named(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)
