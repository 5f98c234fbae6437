import time

import pytest

from rewards.math import MathAnswer
from rewards.math.extraction import SeveralAnswersError, extract


def value(completion, answer=2, **settings):
    return MathAnswer(**settings)(completion=completion, answer=answer).value


@pytest.mark.parametrize(
    ("completion", "settings", "expected"),
    [
        (r"so \boxed{2}.", {}, "2"),
        (r"\boxed{2} then \boxed{3", {}, "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", {}, r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\boxed{2}}", {}, r"\boxed{2}"),
        (r"\fbox{2}", {}, "2"),
        (r"\boxed{\}2}", {}, r"\}2"),
        (r"{\boxed{2}", {}, "2"),
        (r"<think>\boxed{3}</think>\boxed{2}", {}, "2"),
        (r"<think>\boxed{3}</think>none", {}, None),
        ("The answer is 2.", {"marker": "answer is"}, "2"),
        ("THE ANSWER IS: 2", {"marker": "answer is"}, "2"),
        ("The answer is 3. No, the answer is 2", {"marker": "answer is"}, "2"),
        ("the answer is\n$$\n2\n$$\nas said", {"marker": "answer is"}, "$$\n2\n$$"),
        ("the answer is, as one sees by looking closely, $2$.", {"marker": "answer is"}, "2"),
        ("the answer is 2.5 metres.", {"marker": "answer is"}, "2.5 metres"),
        ("#### 2\nand more", {"marker": "####"}, "2"),
        ("#### 2", {"marker": ["answer is", "####"]}, "2"),
        ("the answer is 3\n#### 2", {"marker": ["answer is", "####"]}, "2"),
        (r"\boxed{2}. The answer is 3", {"marker": "answer is"}, "2"),
        ("<answer>2</answer>", {"tag": "answer"}, "2"),
        (r"<answer>it is \boxed{2}</answer> \boxed{3}", {"tag": "answer"}, "2"),
        ("so it is 2", {}, None),
        ("it is $3$. No, $2$, so 7 is out", {"anywhere": "formula"}, "2"),
        ("it is $3$, and $2$", {"anywhere": "formula"}, "3, 2"),
        ("it is $3$, so 7 is it", {"anywhere": "both"}, "7"),
        ("it grows by 20 percent", {"anywhere": "number"}, "20%"),
        ("AZYUK2A", {"anywhere": "number"}, None),
        ("$\n2\n$", {"anywhere": "formula"}, None),
    ],
)
def test_the_answer_is_found_where_it_is_said_to_stand(completion, settings, expected):
    assert extract(completion, **settings) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"$\boxed{1}$, $\boxed{2}$", "1, 2"),
        (r"\boxed{1} \quad \text{and} \quad \boxed{2}", "1, 2"),
        (r"\boxed{1} papers and \boxed{2} bins", "1, 2"),
        (r"\boxed{1}\boxed{2}", "1, 2"),
        (r"\boxed{2} and \boxed{2}", "2"),
        (r"\boxed{2}. Checking ... Yes: \boxed{2}", "2"),
        (r"\boxed{0.5}. Checking ... Yes: \boxed{1/2}", "1/2"),
    ],
)
def test_neighbouring_boxes_are_one_answer_and_equal_boxes_are_one_box(completion, expected):
    assert extract(completion) == expected


@pytest.mark.parametrize("completion", [r"\boxed{1} no, \boxed{2}", r"\boxed{1}. \boxed{2}", r"\boxed{x} oh \boxed{y}"])
def test_boxes_that_disagree_are_refused_unless_the_last_one_counts(completion):
    with pytest.raises(SeveralAnswersError, match="2 boxes disagree"):
        extract(completion)
    assert extract(completion, several="last") == completion[-2]


@pytest.mark.parametrize(
    "completion",
    [
        r"\boxed{1} and \boxed{2}",
        r"\boxed{2} or \boxed{1}",
        r"\boxed{2 \text{ or } 3}",
        r"\boxed{2, 3}",
        r"\boxed{\{2, 3\}}",
        r"\boxed{2 \pm 0.5}",
        r"\boxed{2; 3}",
        r"\boxed{2\text{ or maybe 3}}",
        r"\boxed{2 | 3}",
        r"\boxed{1} hm, \boxed{2}",
    ],
)
def test_hedging_is_refused_for_a_key_of_one_value(completion):
    assert value(completion) == 0.0


def test_boxes_next_to_each_other_answer_for_a_key_of_several_values():
    assert value(r"\boxed{1} and \boxed{2}", answer="1, 2") == 1.0
    assert value(r"\boxed{1} and \boxed{2}", answer=r"\{2, 1\}") == 1.0


def test_the_reason_names_what_was_wrong():
    assert MathAnswer()(completion=r"\boxed{1}. \boxed{2}", answer=2).info["reason"] == (
        "several different answers: 2 boxes disagree"
    )
    assert MathAnswer()(completion="it is 2", answer=2).info["reason"] == "no answer found"


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 100_000,
        "\\boxed{" * 50_000 + "}" * 50_000,
        "\\boxed{1}" * 50_000,
        "answer is $" * 50_000,
        "\\[" * 50_000,
        "$$ 1 " * 50_000,
        "1," * 100_000,
        "</think>" * 50_000,
    ],
    ids=range(8),
)
def test_every_scan_takes_linear_time(text):
    started = time.process_time()
    for anywhere in ("formula", "number", "both"):
        extract(text, marker="answer is", several="last", anywhere=anywhere)
    assert time.process_time() - started < 5.0


def test_boxes_of_any_length_are_compared_in_linear_time():
    """Blanks behind a sign were looked at from each of them: minutes, before any limit."""
    started = time.monotonic()
    score = MathAnswer()(completion="\\boxed{a\\;" + " " * 300_000 + "b}\\boxed{2}", answer="2")
    assert score.value == 0.0
    assert time.monotonic() - started < 10
