import pytest

from rewards.math import LastInteger


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("57", 57),
        ("12 + 45 = 57.", "57"),
        ("12+45=57.", 57),
        ("it is **57**", 57),
        ("the sum is -5", -5),
        ("= \u22125", -5),
        ("12-57", 57),
        ("12 - 57", 57),
        ("that makes 1,234,567!", 1234567),
        ("1,234 in total", "1,234"),
        ("57.0", 57),
        ("so\u202657", 57),
        ("is...57", 57),
        ("007", 7),
        ("$57", 57),
        ("+57", 57),
    ],
)
def test_the_right_last_integer_scores_one(completion, answer):
    assert LastInteger()(completion=completion, answer=answer).value == 1.0


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("", 57),
        ("fifty-seven", 57),
        ("57 is not 58", 57),
        ("57.5", 57),
        ("57.5", 5),
        (".57", 57),
        ("-57", 57),
        ("157", 57),
        ("1,57", 157),
        ("9" * 100_000, 57),
        ("1," * 100_000, 57),
    ],
)
def test_anything_else_scores_zero(completion, answer):
    assert LastInteger()(completion=completion, answer=answer).value == 0.0


def test_a_key_that_is_no_integer_is_the_data_sets_error():
    with pytest.raises(ValueError, match=r"answer must be an integer, got '5\.5'"):
        LastInteger()(completion="5", answer="5.5")
