"""What is optimized beside what is only watched."""

import math

import matplotlib.image
import numpy as np
import pytest

from agents.proxy import draw_proxy_and_truth, standardized, tell_truth, truth_summary, watched_parts

RECORDS = [
    {
        "iteration": i,
        "reward/mean": float(i),
        "reward/std": 0.5,
        "rewards/taste/mean": truth,
        "rewards/taste/std": 2.0,
        "kl/row": kl,
    }
    for i, truth, kl in ((1, 1.0, -0.1), (2, 3.0, 4.0), (3, 2.0, 9.0))
]


def test_parts_of_weight_zero_are_watched():
    reward = {"model": {"weight": 1.0, "fn": "a.b"}, "taste": {"weight": 0.0, "fn": "c.d"}, "plain": "e.f"}
    assert watched_parts(reward) == ["taste"]
    assert watched_parts({"model": {"fn": "a.b"}}) == []
    assert watched_parts(None) == []


def test_summary_by_hand():
    assert truth_summary(RECORDS, ["taste", "absent"]) == {
        "reward": {"first": 1.0, "best": 3.0, "best_iteration": 3, "last": 3.0},
        "taste": {"first": 1.0, "best": 3.0, "best_iteration": 2, "last": 2.0},
    }
    lines = tell_truth(truth_summary(RECORDS, ["taste"]))
    assert lines[1] == "  taste (watched): 1.00 at first, 3.00 at best (iteration 2), 2.00 at the end"
    assert tell_truth({}) == []


def test_means_are_standardized_by_the_first_iteration():
    iteration, value = standardized(RECORDS, "taste")
    assert (iteration.tolist(), value.tolist()) == ([1, 2, 3], [0.0, 1.0, 0.5])
    assert standardized(RECORDS, "reward")[1].tolist() == [0.0, 2.0, 4.0]
    constant = [{"iteration": 4, "reward/mean": 1.0, "reward/std": 0.0}, {"iteration": 5, "reward/mean": 3.0}]
    assert standardized(constant, "reward")[1].tolist() == [0.0, 2.0]


def test_iterations_of_which_nothing_is_known_are_left_out():
    gaps = [{"iteration": 1, "reward/invalid_share": 1.0}, *RECORDS[1:], {"iteration": 4, "reward/mean": math.nan}]
    assert truth_summary(gaps, ["taste"])["reward"]["first"] == 2.0
    assert standardized(gaps, "taste")[0].tolist() == [2, 3]


@pytest.mark.parametrize("with_kl", [True, False])
def test_a_picture_is_drawn_with_and_without_a_reference(tmp_path, with_kl):
    records = [{k: v for k, v in r.items() if with_kl or k != "kl/row"} for r in RECORDS]
    draw_proxy_and_truth(records, ["taste", "absent"], tmp_path / "picture.png", title="a run")
    picture = matplotlib.image.imread(tmp_path / "picture.png")
    assert (picture.shape[1] > 2 * picture.shape[0]) == with_kl
    assert picture[..., :3].std() > 0.05  # not a blank page
    colours = {tuple(np.round(255 * pixel[:3]).astype(int)) for pixel in picture.reshape(-1, picture.shape[2])}
    assert {(0, 114, 178), (213, 94, 0)} <= colours
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
