import pytest

from rewards import Part, Sample, Score, Scorer, as_parts
from rewards.combine import combined


def one(completion):
    return 1.0


def parts_with(**settings):
    return as_parts({"mine": {"fn": one, **settings}})


def test_weights_add_and_gates_multiply():
    parts = {"a": Part(one, weight=2.0), "b": Part(one, weight=-0.5), "open": Part(one, gate=True)}
    scores = {"a": Score(3.0), "b": Score(4.0), "open": Score(0.5)}
    assert combined(parts, scores) == ((2.0 * 3.0 - 0.5 * 4.0) * 0.5, ())


def test_a_closed_gate_leaves_nothing():
    parts = {"a": Part(one), "open": Part(one, gate=True)}
    assert combined(parts, {"a": Score(3.0), "open": Score(0.0)})[0] == 0.0


def test_spans_scale_with_weight_and_gate():
    parts = {"a": Part(one, weight=2.0), "open": Part(one, gate=True)}
    scores = {"a": Score(1.0, spans=((0, 3, 0.25),)), "open": Score(0.5, spans=((0, 1, 9.0),))}
    assert combined(parts, scores) == (1.0, ((0, 3, 0.25),))


def test_worked_example_of_weighted_rules():
    # 1.0 x correct + 0.1 x format, correct = 1, format = 0.5
    parts = {"correct": Part(one), "format": Part(one, weight=0.1)}
    assert combined(parts, {"correct": Score(1.0), "format": Score(0.5)})[0] == pytest.approx(1.05)


def test_a_function_is_one_part_under_its_own_name():
    assert list(as_parts(one)) == ["one"]


def test_an_object_is_one_part_under_its_class_in_snake_case():
    assert list(as_parts("rewards.math.LastInteger")) == ["last_integer"]


def test_an_import_path_with_keywords_becomes_a_partial():
    part = as_parts({"_target_": "user_rewards.brevity", "limit": 4})["brevity"]
    assert part.fn(completion="ab") == 0.5


def test_a_class_path_with_keywords_is_constructed():
    part = as_parts({"form": {"fn": {"_target_": "rewards.format.TagFormat", "tags": ["a"]}, "weight": 2}})["form"]
    assert part.fn.tags == ("a",)
    assert part.weight == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": float("nan")}, "reward.mine: weight must be a finite number, got nan"),
        ({"weight": "1"}, "weight must be a finite number, got '1'"),
        ({"weight": 2.0, "gate": True}, "weight must not be set for a gate, got 2.0"),
        ({"execution": "thread"}, "execution must be one of auto, inline, process, got 'thread'"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"),
        ({"wait": 1}, "a part must have fn and may have weight"),
        ({"fn": 3}, "fn must be callable or have score_batch, got 3"),
        ({"fn": "nowhere.at_all"}, "cannot be imported: no module named 'nowhere'"),
        ({"fn": "rewards.math.Nothing"}, "has no 'Nothing'"),
        ({"fn": Score}, "got the class Score: construct it first"),
        ({"gate": True}, "at least one part that is not a gate"),
    ],
)
def test_a_wrong_setting_is_named_with_its_rule_and_value(settings, message):
    with pytest.raises(ValueError, match=message):
        parts_with(**settings)


def test_a_combination_scores_through_the_scorer():
    scorer = Scorer({"three": {"fn": lambda completion: 3, "execution": "inline", "weight": 0.5}})
    assert scorer.score([Sample("", "x")])[0].value == 1.5
