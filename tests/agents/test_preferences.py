"""The chain from preferences to a policy, as the command runs it, on the smallest of models."""

import json
import os
import signal

import pytest

from agents import preferences
from agents.metrics import read_metrics
from rewards.listener import Listener
from rewards.preference import RewardModel, training
from rewards.preference.data import read_preferences
from rewards.types import Sample

SMALL = [
    "experiment=rlhf",
    "policy.tiny.hidden_size=16",
    "policy.tiny.num_layers=1",
    "policy.tiny.num_heads=2",
    "preparation.judgements=70",
    "preparation.responses=3",
    "preparation.reward_model.tiny.hidden_size=16",
    "preparation.reward_model.tiny.num_layers=1",
    "preparation.reward_model.tiny.num_heads=2",
    "preparation.reward_model.checkpoint_every=2",
    "agent.prompts=4",
    "agent.group_size=2",
    "evaluation.problems=4",
    "evaluation.every=0",
    "threads=1",
]
FOLDER = "runs/preferences-seed0"


@pytest.fixture
def told(run):
    """What `run` gives, with all that was said in one text."""

    def call(*arguments):
        code, out, err = run(*arguments)
        return code if not isinstance(code, str) else 1, out + err

    return call


def test_one_command_draws_trains_optimizes_and_shows_proxy_and_truth(told, tmp_path):
    code, said = told(*SMALL, "name=one", "iterations=2")
    assert code == 0, said
    for words in ("Drawing 70 rankings of 3", "who knows the true reward predicts", "listener (watched):"):
        assert words in said
    rows = [json.loads(line) for line in (tmp_path / FOLDER / "preferences.jsonl").read_text().splitlines()]
    assert len(rows) > 60
    assert {len(row["responses"]) for row in rows} <= {2, 3}
    truth = Listener()
    for row in rows[:5]:
        assert row["truth"] == [truth(row["prompt"], text).value for text in row["responses"]]
    assert len(read_preferences(tmp_path / FOLDER / "preferences.jsonl", loss="plackett_luce")) == len(rows)
    assert len(RewardModel(tmp_path / FOLDER / "reward_model").score_batch([Sample("ab", "cd")])) == 1

    folder = tmp_path / "runs/one"
    records = read_metrics(folder / "metrics.jsonl")
    assert len(records) == 2
    for record in records:
        assert record["reward/mean"] == pytest.approx(record["rewards/reward_model/mean"])
        assert {"rewards/listener/mean", "rewards/listener/repeats", "kl/row"} <= set(record)
    assert (folder / "proxy_and_truth.png").read_bytes().startswith(b"\x89PNG")
    watched = json.loads((folder / "summary.json").read_text())["watched"]
    assert watched["listener"]["first"] == records[0]["rewards/listener/mean"]
    assert watched["reward"]["last"] == records[1]["reward/mean"]


def no_training(*_, **__):
    raise AssertionError("the reward model was trained again")


def test_a_resumed_run_and_another_agent_use_the_reward_model_that_is_there(told, tmp_path, monkeypatch):
    assert told(*SMALL, "name=one", "iterations=1")[0] == 0
    monkeypatch.setattr(training, "train", no_training)
    monkeypatch.setattr(preferences, "draw_preferences", no_training)
    code, said = told("resume=runs/one", "iterations=2")
    assert code == 0, said
    assert "Continuing runs/one after iteration 1" in said
    assert len(read_metrics(tmp_path / "runs/one/metrics.jsonl")) == 2
    code, said = told(*SMALL, "agent=grpo", "agent.prompts=4", "agent.group_size=2", "name=two", "iterations=1")
    assert code == 0, said
    assert "was trained before, with the same settings" in said
    assert "rewards/listener/mean" in read_metrics(tmp_path / "runs/two/metrics.jsonl")[0]


def test_what_other_settings_made_is_refused_with_the_differences(told):
    assert told(*SMALL, "name=one", "iterations=1")[0] == 0
    code, said = told(*SMALL, "name=two", "preparation.temperature=2", "env.max_new_tokens=9")
    assert code == 1
    assert "holds preferences of other settings" in said
    assert "env.max_new_tokens: saved 20, now 9; preparation.temperature: saved 0.7, now 2.0" in said


def test_an_interrupted_preparation_goes_on_where_it_was(told, tmp_path, monkeypatch):
    log_step = training.log_step

    def interrupted(file, step, metrics):
        log_step(file, step, metrics)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "log_step", interrupted)
    code, said = told(*SMALL, "name=one", "iterations=1")
    assert code == 1
    assert "stopped after step 3" in said
    assert "The command of this run, given again, goes on, too." in said
    assert not (tmp_path / "runs/one").exists()
    first = (tmp_path / FOLDER / "preferences.jsonl").read_bytes()
    monkeypatch.setattr(training, "log_step", log_step)
    monkeypatch.setattr(preferences, "draw_preferences", no_training)
    code, said = told(*SMALL, "name=one", "iterations=1")
    assert code == 0, said
    assert (tmp_path / FOLDER / "preferences.jsonl").read_bytes() == first
    steps = [json.loads(x)["step"] for x in (tmp_path / FOLDER / "reward_model/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 3


def test_preferences_repeat_and_are_none_of_the_draws_of_training(told, tmp_path):
    for name in ("a", "b"):
        code, said = told(*SMALL, f"name={name}", f"preparation.folder=runs/of-{name}", "iterations=1")
        assert code == 0, said
    first, second = ((tmp_path / f"runs/of-{name}/preferences.jsonl").read_text() for name in ("a", "b"))
    assert first == second
    drawn = {text for line in first.splitlines() for text in json.loads(line)["responses"]}
    trained = [json.loads(line) for line in (tmp_path / "runs/a/completions.jsonl").read_text().splitlines()]
    long = [row["completion"] for row in trained if len(row["completion"]) > 5]
    assert len(long) >= 3
    assert not drawn & set(long)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["preparation.truth=critic"],
            "preparation.truth must name a part of reward, got 'critic', it has ['listener'",
        ),
        (["preparation.judgements=1"], "preparation.judgements must be at least 2, got 1"),
        (["preparation.responses=1"], "preparation.responses must be at least 2, got 1"),
        (["preparation.temperature=0"], "preparation.temperature must be above 0, got 0"),
        (["preparation.reward_model.loss=all"], "loss must be one of pairs, plackett_luce, got all"),
        (["reward.listener.fn._target_=no.such"], "no.such"),
        (["preparation.folder=taken"], "preparation.folder must be new or hold preferences"),
    ],
)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(told, tmp_path, arguments, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").touch()
    code, said = told(*SMALL, "name=bad", "iterations=1", *arguments)
    assert code not in (0, None)
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_a_name_that_is_taken_is_found_before_anything_is_drawn(told, tmp_path, monkeypatch):
    (tmp_path / "runs/one").mkdir(parents=True)
    (tmp_path / "runs/one/config.yaml").touch()
    monkeypatch.setattr(preferences, "draw_preferences", no_training)
    code, said = told(*SMALL, "name=one")
    assert code == 1
    assert "name=one is taken" in said
