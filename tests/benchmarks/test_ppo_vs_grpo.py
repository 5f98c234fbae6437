import json

import pytest

from benchmarks.finished_run import FinishedRun, run_training
from benchmarks.ppo_vs_grpo import BenchmarkConfig, at_tokens, benchmark, results_of, table

SMALL = ["policy=tiny", "policy.tiny.hidden_size=16", "policy.tiny.num_layers=1", "env.max_new_tokens=4", "threads=1"]
SMALL += ["evaluation.problems=20", "evaluation.every=1", "logging.completions=false", "agent.optim.warmup_steps=0"]


def finished(agent="ppo", seed=0, accuracies=(0.2, 0.6, 1.0), seconds=10.0):
    """100 tokens an iteration, an evaluation each."""
    records = [
        {
            "iteration": i + 1,
            "num_tokens": 100.0 * (i + 1),
            "time/train_seconds": seconds * (i + 1),
            "reward/mean": accuracy / 2,
            "eval/accuracy": accuracy,
            "time/collect": 3.0,
            "time/update": 1.0,
            "optimizer_steps": 4.0,
        }
        for i, accuracy in enumerate(accuracies)
    ]
    summary = {
        "accuracy": {"before": 0.0, "after": accuracies[-1]},
        "seconds": seconds * len(accuracies),
        "tokens": 100 * len(accuracies),
        "iterations": len(accuracies),
        "peak_memory_gb": 0.5,
        "models_held": 1,
        "model": "tiny",
        "num_problems": 20,
    }
    settings = {"agent": {"name": agent} | ({"critic": "shared"} if agent == "ppo" else {})}
    return FinishedRun(agent, seed, f"python -m agents.train agent={agent}", settings, summary, records, 42.0)


def test_a_curve_starts_before_training_and_averages_rewards_between_evaluations():
    run = finished(accuracies=(0.2, 0.6, 0.8))
    del run.records[0]["eval/accuracy"]
    assert [point["num_tokens"] for point in run.curve] == [0, 200, 300]
    assert run.curve[1]["reward/mean"] == pytest.approx((0.1 + 0.3) / 2)
    assert "reward/mean" not in run.curve[0]


def test_accuracies_are_compared_at_equal_tokens():
    assert at_tokens(finished(), "eval/accuracy", 150) == pytest.approx(0.4)
    assert at_tokens(finished(), "eval/accuracy", 50) == pytest.approx(0.1)
    assert at_tokens(finished(), "eval/accuracy", 999) == 1.0


def test_the_target_is_reached_at_the_first_evaluation_that_shows_it():
    reached = finished().reached(0.5)
    assert reached is not None
    assert reached["num_tokens"] == 200
    assert finished().reached(1.01) is None


def test_results_hold_every_seed_with_mean_and_range():
    runs = [finished(a, s, (0.2, 0.5 + 0.1 * s)) for s in (0, 1) for a in ("ppo", "grpo")]
    results = results_of(runs, BenchmarkConfig(tokens=200, seeds=[0, 1], target=0.55))
    ppo = results["agents"]["ppo"]
    assert ppo["accuracy"]["1"]["seeds"] == pytest.approx([0.5, 0.6])
    assert ppo["accuracy"]["1"]["mean"] == pytest.approx(0.55)
    assert ppo["tokens_to_target"]["seeds"] == [None, 200]
    assert results["agents"]["grpo"]["critic"] == "none"
    about = {"machine": {}, "code": {}, "idle_memory_gb": 0.4, "date": "today", "command": "python"}
    about["machine"] = {"processor": "P", "cores": 2, "memory_gb": 8, "torch": "2", "accelerator": None}
    about["code"] = {"commit": "abc", "changed_files": 0}
    text = table({**about, **results})
    assert "| tokens to an accuracy of 0.55 | 200 (1 of 2 seeds) | 200 (1 of 2 seeds) |" in text
    assert "| of these collecting / updating | 75% / 25% | 75% / 25% |" in text


def test_a_small_benchmark_writes_everything_and_ends_in_one_object(tmp_path):
    config = BenchmarkConfig(
        tokens=300,
        seeds=[0],
        both=SMALL,
        ppo=["agent.prompts=8", "agent.optim.minibatch_rows=8"],
        grpo=["agent.prompts=4", "agent.group_size=8"],
        runs=str(tmp_path / "runs"),
        output=str(tmp_path / "out"),
    )
    last = benchmark(config, "python -m benchmarks.ppo_vs_grpo", say=lambda text: None)
    assert json.loads(json.dumps(last))["ppo"]["models_held"] == 1
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"table.md", "results.json", "curves_tokens.png", "curves_seconds.png"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert all(tokens >= 300 for a in results["agents"].values() for tokens in a["tokens"]["seeds"])
    assert results["runs"][0]["curve"][0]["num_tokens"] == 0


def test_a_run_that_fails_shows_the_end_of_its_log(tmp_path):
    with pytest.raises(RuntimeError, match=r"error: .*nothing"):
        run_training("ppo", 0, tmp_path / "runs" / "a", ["policy=tiny", "task.operation=nothing", "task=digits"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"target": 0.0}, "target must be above 0"),
        ({"seeds": [1, 1]}, "seeds must hold at least one, each once"),
        ({"agents": ["trpo"]}, "agents must be among ppo, grpo"),
    ],
)
def test_a_setting_out_of_range_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**settings)
