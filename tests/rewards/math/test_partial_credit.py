import pytest

from rewards import Sample, Scorer
from rewards.math import PartialCredit


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>6 * 7</think><answer>42</answer>", 1.0),
        ("<think>6 * 7</think><answer>41</answer>", 0.5),
        ("<think>6 * 7</think><answer>a lot</answer>", 0.5),
        ("it is 41", 0.0),
        (r"<answer>\boxed{41}</answer>", 0.0),
        (r"\boxed{42}", 1.0),
    ],
)
def test_worked_example_of_rule_rewards(completion, value):
    # +1.0 right, +0.5 right form and wrong value, 0.0 otherwise
    assert PartialCredit()(completion=completion, answer=42).value == value
    assert Scorer(PartialCredit()).score([Sample("", completion, row={"answer": 42})])[0].value == value
