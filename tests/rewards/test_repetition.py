import time

import pytest

from rewards import RepetitionPenalty


def penalty(completion, **settings):
    return RepetitionPenalty(**settings)(completion=completion).value


@pytest.mark.parametrize(
    ("completion", "settings", "value"),
    [
        ("", {}, 0.0),
        ("too short", {}, 0.0),
        ("a b c d e", {}, 0.0),
        # a b c, b c a, c a b, a b c, b c a, c a b: 3 of 6 trigrams are repeats
        ("a b c a b c a b", {}, -0.5),
        ("A b C a B c a b", {}, -0.5),
        ("yes yes yes yes yes", {"ngram": 1}, -0.8),
        ("to be or not to be", {"ngram": 2}, -0.2),
        # the share is 1/2, of which 1/4 is free: (1/2 - 1/4) / (3/4)
        ("a b c a b c a b", {"tolerance": 0.25}, -1 / 3),
        ("a b c a b c a b", {"tolerance": 0.6}, 0.0),
        ("abab", {"unit": "characters", "ngram": 2}, -1 / 3),
    ],
)
def test_the_penalty_is_the_share_of_repeats(completion, settings, value):
    assert penalty(completion, **settings) == pytest.approx(value)


def test_tokens_are_counted_where_the_caller_has_them():
    reward = RepetitionPenalty(unit="tokens", ngram=2)
    assert reward(completion="", completion_ids=[1, 2, 1, 2]).value == pytest.approx(-1 / 3)
    with pytest.raises(ValueError, match="unit 'tokens' must have completion_ids, this sample has none"):
        reward(completion="a b a b")


@pytest.mark.parametrize("completion", ["a" * 10_000, "!" * 1_000, "abcdefg" * 2_000, "\u7b54" * 1_000, "ha-" * 500])
def test_text_without_spaces_does_not_escape(completion):
    assert penalty(completion) < -0.9


def test_it_never_pays_and_never_costs_more_than_one():
    assert -1.0 <= penalty("yes " * 50_000) < -0.999


def test_a_megabyte_is_counted_in_linear_time():
    started = time.perf_counter()
    penalty("word! " * 170_000)
    assert time.perf_counter() - started < 5.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ngram": 0}, "ngram must be a whole number of at least 1, got 0"),
        ({"ngram": 1.5}, "ngram must be a whole number of at least 1, got 1.5"),
        ({"tolerance": 1}, "tolerance must be from 0 to below 1, got 1"),
        ({"unit": "lines"}, "unit must be one of words, characters, tokens, got 'lines'"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RepetitionPenalty(**settings)
