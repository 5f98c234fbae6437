import json

import pytest

from benchmarks import math_grading
from benchmarks.comparison import run_worker, script
from benchmarks.peers.environments import OWN, Worker

CASES = [
    {"source": "a", "expected": True},
    {"source": "b", "expected": False},
    {"source": "c", "expected": False},
    {"source": "d", "expected": True},
]


def test_right_cases_false_positives_and_percentiles_are_counted():
    rounds = [
        {"verdicts": [True, True, False, None], "seconds": [0.001, 0.002, 0.003, 0.010]},
        {"verdicts": [True, True, False, None], "seconds": [0.003, 0.002, 0.005, 0.030]},
        {"verdicts": [True, True, False, None], "seconds": [0.002, 0.002, 0.004, 0.020]},
    ]
    rounds = [{**one, "cpu_seconds": [second / 2 for second in one["seconds"]]} for one in rounds]
    found = math_grading.summary(CASES, rounds)
    assert (found["right"], found["cases"]) == (2, 4)
    assert (found["false_positives"], found["wrong"]) == (["b"], ["b", "d"])
    assert found["median_ms"] == pytest.approx(3.0)  # of 2, 2, 4 and 20
    assert found["p90_ms"] == pytest.approx(20.0)
    assert found["mean_ms"] == pytest.approx(7.0)
    assert found["median_cpu_ms"] == pytest.approx(1.5)


def test_ratios_are_our_speed_over_theirs_and_none_where_it_is_absent():
    ours = {"median_ms": 0.5, "p90_ms": 2.0}
    inline = {"median_ms": 0.25, "p90_ms": 1.5, "median_cpu_ms": 0.2}
    theirs = {"median_ms": 2.0, "p90_ms": 30.0, "median_cpu_ms": 1.0}
    found = math_grading.ratios({"ours": ours, "ours_inline": inline, "math_verify": theirs})
    assert found == {
        "ours/median": 4.0,
        "ours/p90": 15.0,
        "ours_inline/median": 8.0,
        "ours_inline/p90": 20.0,
        "ours_inline/median_cpu": 5.0,
    }
    assert math_grading.ratios({"ours": ours}) == {}


@pytest.mark.parametrize("inline", [True, False])
def test_our_worker_judges_cases_and_times_plain_numbers(inline):
    cases = math_grading.load_cases()
    assert len(cases) == 268
    some = [case for case in cases if "matrix" in case["source"]]
    found = run_worker(
        Worker(OWN, script("math_ours")), {"cases": some, "warm_up": [], "inline": inline}, limit_seconds=120, say=print
    )
    found = json.loads(json.dumps(found))
    assert len(found["verdicts"]) == len(found["seconds"]) == len(some)
    assert found["verdicts"][1:4] == [True, True, True]
    assert all(0 < value < 1000 for value in found["plain_microseconds"].values())
