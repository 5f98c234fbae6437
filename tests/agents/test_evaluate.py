import json
import subprocess
import sys
from dataclasses import replace
from math import comb

import pytest
from finished_runs import finish_run

from agents.config import PolicyConfig
from agents.evaluate import EvaluateConfig, evaluate, output_path, pass_at_k, wilson
from agents.policy.loading import TinyConfig
from rewards.preference.lora import LoraConfig

TINY = PolicyConfig("tiny", precision="float32", tiny=TinyConfig(hidden_size=16, num_layers=1, num_heads=2))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish_run(tmp_path_factory.mktemp("runs"))


def test_pass_at_k_is_the_mean_over_all_choices_of_k_draws():
    # 2 of 5 are right: of the 10 pairs, 3 hold no right one; of the 10 triples, 1
    assert pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)
    assert pass_at_k(5, 0, 3) == 0
    with pytest.raises(ValueError, match="1 <= k <= samples"):
        pass_at_k(2, 1, 3)


def test_wilsons_interval_covers_the_truth_about_as_often_as_it_says():
    truth, total = 0.1, 100
    covering = [k for k in range(total + 1) if wilson(k / total, total)[0] <= truth <= wilson(k / total, total)[1]]
    assert 0.93 < sum(comb(total, k) * truth**k * (1 - truth) ** (total - k) for k in covering) < 0.97


def test_wilsons_interval_by_hand():
    # 8 of 10: z^2 = 3.8415, centre (0.8 + 0.1921) / 1.3841 = 0.7167, half 1.96 * sqrt(0.016 + 0.0096) / 1.3841 = 0.2266
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0.5, 0)


def test_a_run_is_examined_as_it_was_at_its_end(run):
    result, found = evaluate(EvaluateConfig(run=str(run), samples=2))
    summary = json.loads((run / "summary.json").read_text())
    assert result["accuracy"] == summary["accuracy"]["after"]
    assert result["num_problems"] == 4
    assert set(result["interval_95"]) == {"accuracy", "sampled_accuracy", "pass@1", "pass@2"}
    assert len(found.greedy.ended) == 4


def test_a_run_with_an_adapter_is_examined_as_it_was_at_its_end(tmp_path):
    run = finish_run(tmp_path, policy=replace(TINY, lora=LoraConfig(rank=4)))
    result, found = evaluate(EvaluateConfig(run=str(run), samples=0))
    summary = json.loads((run / "summary.json").read_text())
    assert result["accuracy"] == summary["accuracy"]["after"]
    assert len(found.greedy.ended) == 4


def test_an_untrained_model_is_examined_on_a_task(run):
    result, _ = evaluate(EvaluateConfig(policy=TINY, task={"_target_": "small.Echo"}, samples=0, problems=3))
    assert result["num_problems"] == 3
    assert result["run"] is None
    assert "sampled_accuracy" not in result


def test_settings_that_cannot_work_are_named(run, tmp_path):
    for settings, message in (
        ({}, "one of run and policy must be given"),
        ({"policy": TINY}, "task must be given"),
        ({"run": "a", "samples": -1}, "samples must be at least 0"),
        ({"run": "a", "temperature": 0.0}, "temperature must be above 0"),
        ({"run": str(tmp_path)}, "is not the folder of a run"),
        ({"run": str(run), "split": "training"}, "split must be one of train, test, got 'training'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(EvaluateConfig(**settings))


def test_an_earlier_evaluation_is_not_overwritten(tmp_path):
    assert output_path(str(tmp_path)) == tmp_path / "evaluation.json"
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match="never overwritten"):
        output_path(str(tmp_path))


def test_the_command_line_prints_and_writes(tmp_path):
    command = [sys.executable, "-m", "agents.evaluate", "policy=tiny", "task=target", "samples=2", f"output={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "greedy accuracy" in done.stdout
    assert "95 % interval" in done.stdout
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["task"] == "target"
