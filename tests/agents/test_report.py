import math

import matplotlib.image
import numpy as np
import pytest

from agents import report
from agents.report import draw_curves


def run(offset=0.0, step=1):
    return [
        {
            "iteration": i,
            "num_tokens": 100 * i + offset,
            "reward/mean": i / 10 + offset,
            "reward/std": 0.25,
            "kl": math.nan,
        }
        | ({"eval/accuracy": i / 10} if i % 2 == 0 else {})
        for i in range(1, 7, step)
    ]


def test_a_picture_is_drawn_of_one_run(tmp_path):
    draw_curves({"grpo": run()}, tmp_path / "curves.png", title="GRPO")
    picture = matplotlib.image.imread(tmp_path / "curves.png")
    assert picture.shape[1] > picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05  # not a blank page
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("x", ["iteration", "num_tokens"])
def test_a_picture_is_drawn_of_several_labels_and_seeds(tmp_path, x):
    runs = {"grpo": [run(), run(0.1)], "ppo": [run(0.2), run(0.3), run(0.4)], "none": []}
    draw_curves(runs, tmp_path / "curves.png", x=x)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_seeds_are_compared_on_the_points_that_all_of_them_cover():
    # seed 0 at 1..5, seed 1 at 2, 4, 6: common from 2 to 5; at 3 seed 1 is interpolated
    first = [{"iteration": i, "kl": float(i)} for i in (1, 2, 3, 4, 5)]
    second = [{"iteration": i, "kl": 10.0 * i} for i in (6, 2, 4)]
    curve = report._curve([first, second, []], "kl", "iteration")
    assert curve.x.tolist() == [2, 3, 4, 5]
    assert curve.y.tolist() == [[2, 3, 4, 5], [20, 30, 40, 50]]
    assert report._curve([first, [{"iteration": 9, "kl": 0.0}]], "kl", "iteration") is None


def test_missing_and_nan_points_are_left_out():
    records = [{"iteration": 1, "kl": math.nan}, {"iteration": 2}, {"iteration": 3, "kl": 0.5}, {"kl": 1.0}]
    curve = report._curve([records], "kl", "iteration")
    assert (curve.x.tolist(), curve.y.tolist()) == ([3], [[0.5]])
    assert report._curve([records], "entropy", "iteration") is None


def test_a_single_run_is_shaded_by_its_recorded_deviation():
    np.testing.assert_allclose(report._curve([run()], "reward/mean", "iteration").deviation, 0.25)
    assert report._curve([run(), run()], "reward/mean", "iteration").deviation is None
    assert report._curve([[{"iteration": 1, "reward/mean": 1.0}]], "reward/mean", "iteration").deviation is None


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="x must be one of iteration, num_tokens, time/train_seconds, got 'epoch'"):
        draw_curves({"grpo": run()}, tmp_path / "curves.png", x="epoch")
    for runs in ({}, {"grpo": []}, {"grpo": [{"iteration": 1, "other": 1.0}]}):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw_curves(runs, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []
