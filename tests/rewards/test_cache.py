import pytest
import user_rewards

from rewards import Sample, Scorer


def samples(*completions, **row):
    return [Sample("What?", completion, row=row) for completion in completions]


def values(scorer, *completions, **row):
    return [verdict.value for verdict in scorer.score(samples(*completions, **row))]


def test_nothing_is_kept_unless_asked_for():
    counting = user_rewards.Counting()
    scorer = Scorer(counting)
    assert values(scorer, "ab", "ab") == values(scorer, "ab", "ab") == [2, 2]
    assert counting.seen == ["ab"] * 4


def test_a_score_is_given_once_for_what_is_shown_twice():
    counting = user_rewards.Counting()
    scorer = Scorer(counting, cache_size=10)
    assert values(scorer, "ab", "c", "ab") == [2, 1, 2]
    assert values(scorer, "c", "def", "ab") == [1, 3, 2]
    assert counting.seen == ["ab", "c", "def"]


def test_another_row_or_another_version_is_another_call():
    counting = user_rewards.Counting()
    scorer = Scorer(counting, cache_size=10)
    values(scorer, "ab", answer=1)
    values(scorer, "ab", answer=2)
    counting.version = 2
    values(scorer, "ab", answer=2)
    assert counting.seen == ["ab"] * 3


def test_a_failure_is_not_kept():
    counting = user_rewards.Counting()
    scorer = Scorer(counting, cache_size=10)
    for _ in range(2):
        assert not scorer.score(samples("raise"))[0].valid
    assert counting.seen == ["raise"] * 2


def test_the_score_that_was_not_asked_for_the_longest_is_forgotten():
    counting = user_rewards.Counting()
    scorer = Scorer(counting, cache_size=2)
    for completion in ("a", "b", "a", "c", "a", "b"):  # c drives out b, which was asked for before a
        values(scorer, completion)
    assert counting.seen == ["a", "b", "c", "b"]


def test_a_batched_reward_is_shown_only_what_is_not_known():
    counting = user_rewards.CountingBatches()
    scorer = Scorer(counting, cache_size=10)
    assert values(scorer, "ab", "c", "ab") == [2, 1, 2]
    assert values(scorer, "c", "def") == [1, 3]
    assert counting.seen == [["ab", "c"], ["def"]]
    assert scorer.take_metrics()["counting_batches/cached"] == 2


def test_what_only_sees_batches_is_asked_each_time():
    """It may compare the samples with each other, so a score belongs to the batch."""
    scorer = Scorer(user_rewards.Batch([1.0]), cache_size=10)
    assert values(scorer, "a") == values(scorer, "a") == [1.0]
    assert scorer.take_metrics()["batch/calls"] == 2


@pytest.mark.parametrize("size", [-1, 1.5])
def test_a_wrong_size_is_named(size):
    with pytest.raises(ValueError, match=f"cache_size must be at least 0, got {size}"):
        Scorer(user_rewards.length, cache_size=size)
