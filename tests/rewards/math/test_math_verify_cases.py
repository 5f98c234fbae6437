"""Math-Verify's own test cases, judged by our rules; `math_verify_cases.md` tells where they are from."""

import json
from pathlib import Path

import pytest

from rewards.math import MathAnswer

CASES = [json.loads(line) for line in Path(__file__).with_name("math_verify_cases.jsonl").read_text().splitlines()]
LEFT_OUT = {
    "test_yujianll.py::test_string_extraction[9]": "the label is wrong: 1 - 1/e is not 1 + 1/e",
    "test_all.py::test_latex_notation[4]": "an answer must be finished: (9+1) is not written out as 10 is",
    "test_all.py::test_matrix_extraction[5]": "an answer must be finished: a sum of matrices is to be worked out",
    "test_all.py::test_matrix_extraction[6]": "an answer must be finished: a product of matrices is to be worked out",
    "test_yujianll.py::test_string_extraction[5]": "an unevaluated sum is not an answer",
    "test_all.py::test_math_extraction_additional_cases[17]": "boxes that disagree, 200 and 255, are refused",
    "test_boxed.py::test_boxed[0]": "two boxes with nothing but ++++++ between them are not one answer of two parts",
    "test_strict.py::test_strict_variable_comparison[1]": "unknowns are told apart: f(y) is not f(x)",
}
"""Rows that conflict with our rules, each with the rule."""
PLACES = {("expr",): "number", ("latex",): "formula", ("latex", "expr"): "both"}


def reward(options):
    """Each case has its own options: what is looked for, how precise, and whether an inequality may be an interval."""
    precision = options["precision"]
    return MathAnswer(
        anywhere=PLACES[tuple(options["match_types"])],
        decimals=precision if precision < 5 else None,
        inequalities=options["allow_set_relation_comp"],
        key_in_text=True,
    )


def verdict(case):
    try:
        return reward(case["options"])(completion=case["pred"], answer=case["gold"]).value == 1.0
    except ValueError:  # the key is not understood
        return None


@pytest.fixture(scope="module")
def verdicts():
    return [verdict(case) for case in CASES]


def name(case):
    return case["source"].removeprefix("tests/")


def test_there_are_269_cases_and_those_left_out_are_among_them():
    assert len(CASES) == 269
    assert {name(case) for case in CASES} >= set(LEFT_OUT)


def test_at_least_261_cases_are_judged_as_labelled(verdicts):
    wrong = [
        f"{name(case)}: {case['gold'][-60:]!r}, {case['pred'][-60:]!r}"
        for case, found in zip(CASES, verdicts, strict=True)
        if name(case) not in LEFT_OUT and found != case["expected"]
    ]
    assert len(CASES) - len(LEFT_OUT) - len(wrong) >= 261, "\n".join(wrong)


def test_no_different_answer_is_called_equal(verdicts):
    false = [name(case) for case, found in zip(CASES, verdicts, strict=True) if found and not case["expected"]]
    assert false == []


def test_the_wrong_label_is_not_followed(verdicts):
    found = {name(case): verdict for case, verdict in zip(CASES, verdicts, strict=True)}
    assert found["test_yujianll.py::test_string_extraction[9]"] is False
