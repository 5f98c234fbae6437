import json

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from agents.config import typed
from agents.run import prepare
from agents.saved import CONF
from agents.train import train
from benchmarks import ppo_vs_grpo
from benchmarks.finished_run import FinishedRun, read_run, run_training
from benchmarks.ppo_vs_grpo import BenchmarkConfig, benchmark

SMALL = ["policy=tiny", "policy.tiny.hidden_size=32", "policy.tiny.num_layers=1", "env.max_new_tokens=2", "threads=1"]
SMALL += ["task.length=3", "+task.base=3", "task.operation=largest", "+task.test_share=0.4", "evaluation.every=16"]
SMALL += ["logging.completions=false"]
FAST = ["agent.optim.warmup_steps=0", "agent.optim.learning_rate=5e-3", "agent.optim.decay=constant"]
FAST += ["agent.optim.epochs=2", "agent.prompts=16", "agent.group_size=8"]


def finished(agent="ppo", seed=0, accuracies=(0.2, 0.6, 1.0), seconds=10.0, before=0.0):
    """100 tokens an iteration, an evaluation each; 10 problems."""
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
        "accuracy": {"before": before, "after": accuracies[-1]},
        "before": {"eval/accuracy": before},
        "seconds": seconds * len(accuracies),
        "tokens": 100 * len(accuracies),
        "iterations": len(accuracies),
        "peak_memory_gb": 0.5,
        "models_held": 1,
        "model": "tiny",
        "task": "digits",
        "device": "cpu",
        "precision": "float32",
    }
    settings = {"agent": {"name": agent} | ({"critic": "shared"} if agent == "ppo" else {})}
    right = [int(i < round(10 * accuracies[-1])) for i in range(10)]
    held_out = {"correct": right, "samples": 2, "num_correct": [2 * x for x in right]}
    command = f"python -m agents.train agent={agent}"
    return FinishedRun(agent, seed, command, settings, summary, records, 42.0, held_out)


def configured(tmp_path, **settings):
    common = ["policy=tiny", "threads=1"]
    places = {"runs": str(tmp_path / "runs"), "output": str(tmp_path / "out")}
    return BenchmarkConfig(**{"tokens": 300, "seeds": [0, 1, 2], "common": common, "draws": 500} | places | settings)


@pytest.fixture
def trained(monkeypatch):
    """Instead of processes: what they would have found. `broken` ones break off."""
    started, broken = [], set()

    def run(agent, seed, folder, overrides, *, choice=None, watch=None):
        started.append((agent, seed))
        if (agent, seed) in broken:
            raise RuntimeError(f"python -m agents.train agent={agent} ended with 1:\nerror: out of memory")
        watch({"num_tokens": 1.0, "reward/mean": 0.5})
        return finished(agent, seed, (0.1, 0.1) if agent == "slow" else (0.5, 1.0))

    monkeypatch.setattr(ppo_vs_grpo, "run_training", run)
    monkeypatch.setattr(ppo_vs_grpo, "memory_of_an_idle_process", lambda: 0.4)
    return started, broken


def test_a_curve_starts_before_training_and_averages_rewards_between_evaluations():
    run = finished(accuracies=(0.2, 0.6, 0.8))
    del run.records[0]["eval/accuracy"]
    assert [point["num_tokens"] for point in run.curve] == [0, 200, 300]
    assert run.curve[1]["reward/mean"] == pytest.approx((0.1 + 0.3) / 2)
    assert "reward/mean" not in run.curve[0]


def test_accuracies_are_compared_at_equal_tokens():
    run = ppo_vs_grpo.result_of(finished(), "same", {})
    assert run.at("eval/accuracy", 150) == pytest.approx(0.4)
    assert run.at("eval/accuracy", 50) == pytest.approx(0.1)
    assert run.at("eval/accuracy", 999) == 1.0
    assert run.critic == "a head on the policy's hidden states"
    assert run.reach(0.5).tokens == 200
    assert run.reach(1.01).censored


def test_a_run_that_breaks_off_is_reported_and_the_others_go_on(tmp_path, trained):
    started, broken = trained
    broken |= {("grpo", 1)}
    heard = []
    last = benchmark(configured(tmp_path), "python", heard.append)
    assert started == [(name, seed) for seed in (0, 1, 2) for name in ("ppo", "grpo")]
    assert last["failures"] == ["grpo-seed1"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "**grpo, seed 1, broke off and is left out, which flatters it: error: out of memory**" in text
    assert "0 of 6" not in text
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {c["num_seeds"] for c in results["comparisons"]} == {2}
    assert any("broke off and is left out" in line for line in heard)


def test_an_agent_that_always_breaks_off_does_not_take_the_others_along(tmp_path, trained):
    trained[1].update(("grpo", seed) for seed in (0, 1, 2))
    variants = {"slow": ["agent=grpo", "agent.optim.learning_rate=0"]}
    last = benchmark(
        configured(tmp_path, agents=["ppo", "grpo", "slow"], variants=variants), "python", lambda text: None
    )
    assert set(last["agents"]) == {"ppo", "slow"}
    assert last["verdicts"][0]["winner"] == "ppo"
    trained[1].update((name, seed) for name in ("ppo", "slow") for seed in (0, 1, 2))
    with pytest.raises(RuntimeError, match=r"no run came to its end; the first that failed: .*\n.*out of memory"):
        benchmark(configured(tmp_path), "python", lambda text: None)


def test_resuming_measures_only_what_is_missing_or_was_measured_otherwise(tmp_path, trained):
    started, broken = trained
    broken |= {("grpo", 1)}
    benchmark(configured(tmp_path), "python", lambda text: None)
    broken.clear()
    started.clear()
    last = benchmark(configured(tmp_path, resume=True), "python", lambda text: None)
    assert started == [("grpo", 1)]
    assert last["failures"] == []
    started.clear()
    benchmark(configured(tmp_path, resume=True, settings={"grpo": ["agent.prompts=5"]}), "python", lambda text: None)
    assert started == [("grpo", 0), ("grpo", 1), ("grpo", 2)]
    started.clear()
    benchmark(configured(tmp_path), "python", lambda text: None)
    assert len(started) == 6


@pytest.fixture
def in_this_process(monkeypatch):
    """Instead of processes of their own, which cost five seconds each before they begin."""

    def run(agent, seed, folder, overrides, *, choice=None, watch=None):
        with initialize_config_dir(CONF, version_base="1.3"):
            places = [f"runs={folder.parent}", f"name={folder.name}", f"seed={seed}"]
            composed = compose("train", overrides=[*choice, *overrides, *places])
        made = prepare(typed(composed.copy()), OmegaConf.to_container(composed, resolve=True), lambda text: None)
        try:
            train(made, say=lambda text: None)
        finally:
            made.envs.close()
        return read_run(agent, seed, "python -m agents.train", made.folder, 1.0)

    monkeypatch.setattr(ppo_vs_grpo, "run_training", run)
    monkeypatch.setattr(ppo_vs_grpo, "memory_of_an_idle_process", lambda: 0.4)


def test_a_planted_difference_is_found_in_runs_that_really_ran(tmp_path, in_this_process):
    """The same agent with learning rate 0; two seeds suffice where one gets every problem and the other none."""
    config = configured(
        tmp_path,
        tokens=8000,
        seeds=[0, 1],
        agents=["grpo", "slow"],
        common=SMALL,
        settings={"grpo": FAST},
        variants={"slow": ["agent=grpo", "agent.optim.learning_rate=0"]},
        samples=2,
    )
    last = benchmark(config, "python -m benchmarks.ppo_vs_grpo", say=lambda text: None)
    accuracy, pass_1, *_ = json.loads(json.dumps(last))["verdicts"]
    assert (accuracy["quantity"], accuracy["winner"]) == ("held-out accuracy", "grpo")
    assert (pass_1["quantity"], pass_1["winner"]) == ("pass@1", "grpo")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "table.md", "results.json", "curves_tokens.png", "curves_seconds.png", "runs"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["unpaired_seeds"] == []
    assert results["unequal_settings"] == {}
    for run in results["runs"]:
        assert run["tokens"] >= 8000
        kept = json.loads((tmp_path / "out" / "runs" / f"{run['name']}-seed{run['seed']}.json").read_text())
        assert len(kept["correct"]) == len(kept["num_correct"]) == results["num_problems"] == 13
        assert run["accuracy"] == pytest.approx(sum(kept["correct"]) / 13)


def test_a_run_that_fails_shows_the_end_of_its_log(tmp_path):
    with pytest.raises(RuntimeError, match=r"error: .*nothing"):
        run_training("ppo", 0, tmp_path / "runs" / "a", ["policy=tiny", "task.operation=nothing", "task=digits"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"target": 0.0}, "target must be above 0"),
        ({"seeds": [1, 1]}, "seeds must hold at least one, each once"),
        ({"seeds": [-1]}, "seeds must be at least 0"),
        ({"agents": []}, "agents must hold at least one"),
        ({"samples": -1}, "samples must be at least 0"),
        ({"level": 1.0}, "level must be at least 0.5 and below 1"),
        ({"draws": 3}, "draws must be at least 100"),
    ],
)
def test_a_setting_out_of_range_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**settings)
