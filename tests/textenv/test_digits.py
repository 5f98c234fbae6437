import pytest

from textenv.tasks.digits import OPERATIONS, Digits, RightDigits


def test_no_rearrangement_of_a_train_problem_is_held_out():
    task = Digits()
    train, test = ({"".join(sorted(p.row["digits"])) for p in task.split(name)} for name in ("train", "test"))
    assert not train & test
    assert len(task.split("train")) + len(task.split("test")) == 1000
    assert len(task.split("test")) > 100


@pytest.mark.parametrize(
    ("operation", "answer"), [("copy", "907"), ("reverse", "709"), ("sort", "079"), ("largest", "9")]
)
def test_each_operation_has_its_answer(operation, answer):
    task = Digits(operation)
    problem = next(p for s in ("train", "test") for p in task.split(s) if p.prompt == "907=")
    assert problem.row["answer"] == answer
    assert set(OPERATIONS) == {"copy", "reverse", "sort", "largest"}


def test_the_own_tokenizer_knows_every_prompt_and_answer():
    task = Digits(template="turn {digits}: ")
    tokenizer = task.tokenizer()
    for problem in task.split("test"):
        assert tokenizer.decode(tokenizer.encode(problem.prompt + problem.row["answer"]))


def test_too_long_an_answer_is_worth_less():
    assert float(RightDigits()(completion="709", answer="709")) == 1
    assert float(RightDigits()(completion="7097", answer="709")) == 0.75
    assert float(RightDigits()(completion="", answer="709")) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operation": "rotate"}, "operation must be one of copy, reverse, sort, largest, got 'rotate'"),
        ({"length": 6}, "length must be from 2 to 5, got 6"),
        ({"base": 1}, "base must be from 2 to 10, got 1"),
        ({"template": "x"}, "template must contain {digits} once, got 'x'"),
        ({"test_share": 0.0}, "test_share must leave sets of digits on both sides"),
    ],
)
def test_a_setting_out_of_range_is_named(settings, message):
    with pytest.raises(ValueError) as raised:
        Digits(**settings)
    assert message in str(raised.value)
