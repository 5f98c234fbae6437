import pytest

from rewards.math import MathAnswer


def value(answer, key="C", **settings):
    return MathAnswer(choices="ABCDE", **settings)(completion=rf"\boxed{{{answer}}}", answer=key).value


MANY_WAYS = ["C", "c", "(C)", "C.", "C)", "option C", "C: the cat", "(C) 42", "C, since a cat is no dog"]
IN_LATEX = [r"\text{C}", r"\textbf{(C)}", r"\textbf{(C) } 42", r"\mathrm{C}"]


@pytest.mark.parametrize("answer", [*MANY_WAYS, *IN_LATEX])
def test_a_letter_may_be_written_in_many_ways(answer):
    assert value(answer) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "A or C",
        "C or A",
        "A, C",
        "(A) (C)",
        "(C), not (B)",
        "C, then B",
        "C or maybe B",
        r"C \& B",
        "42",
        "CC",
        "Cat",
        "",
    ],
)
def test_another_letter_or_several_are_wrong(answer):
    assert value(answer) == 0.0


def test_a_key_that_is_no_choice_is_compared_as_ever():
    assert value("42", key="42") == 1.0
    assert value("C", key="42") == 0.0


def test_a_letter_stands_for_itself_without_choices():
    assert MathAnswer()(completion=r"\boxed{\text{(C)}}", answer="C").value == 1.0
    assert MathAnswer()(completion=r"\boxed{c}", answer="C").value == 0.0


def test_the_answer_is_found_behind_a_marker_too():
    assert MathAnswer(choices="ABCD")(completion="The answer is (B) because ...", answer="B").value == 1.0
