"""Every named experiment of GRPO's family composes to the settings that its paper has, and trains."""

from pathlib import Path

import hydra
import pytest
from test_train import SMALL

from agents.config import register, typed
from agents.metrics import read_metrics

CONF = str(Path(__file__).parents[2] / "conf")
TINY = [
    *(word for word in SMALL if word not in ("evaluation.samples=2", "evaluation.every=2")),
    "agent.optim.minibatch_rows=4",
    "evaluation.samples=0",
    "evaluation.every=0",
    "evaluation.problems=2",
    "logging.tensorboard=false",
    "iterations=2",
]
NAMED = {
    "dr_grpo": {"scale_advantages": "none", "optim.aggregation": "constant", "baseline": "group"},
    "dapo": {
        "clip_low": 0.2,
        "clip_high": 0.28,
        "resample_rounds": 10,
        "resample_ignores": ["soft_overlong"],
        "optim.aggregation": "token_mean",
        "kl_coef": 0.0,
    },
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "optim.aggregation": "sequence_mean"},
    "cispo": {"objective": "cispo", "clip_low": 1.0, "clip_high": 4.0, "optim.aggregation": "token_mean"},
    "rloo": {
        "baseline": "leave_one_out",
        "scale_advantages": "none",
        "ratio": "product",
        "kl_in": "reward",
        "optim.aggregation": "sequence_mean",
    },
    "reinforce_pp": {
        "group_size": 1,
        "baseline": "none",
        "scale_advantages": "none",
        "returns": "to_go",
        "whiten_advantages": True,
        "kl_in": "reward",
    },
    "reinforce_pp_baseline": {
        "baseline": "group",
        "scale_advantages": "none",
        "whiten_advantages": True,
        "kl_in": "loss",
        "kl_estimator": "k2",
    },
    "gdpo": {"normalize_each_reward": True},
    "two_sided": {"ratio_cap": 4.0, "clip_high": 0.2},
}


def agent_of(name):
    register()
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        return typed(hydra.compose("train", overrides=[f"experiment={name}"])).agent


@pytest.mark.parametrize(("name", "settings"), NAMED.items(), ids=list(NAMED))
def test_a_named_experiment_is_what_its_paper_says_and_trains(run, tmp_path, name, settings):
    agent = agent_of(name)
    assert agent.name == "grpo"
    for path, value in settings.items():
        place, _, setting = path.rpartition(".")
        assert getattr(agent.optim if place else agent, setting) == value, path
    overlong = ["reward.soft_overlong.fn.cache_tokens=1"] if name == "dapo" else []
    code, out, err = run(*TINY, f"experiment={name}", f"name={name}", *overlong)
    assert code == 0, out + err
    records = read_metrics(tmp_path / "runs" / name / "metrics.jsonl")
    assert len(records) == 2
    assert all(record["grad_norm"] > 0 for record in records)
    assert ("kl" in records[0]) == (agent.kl_coef > 0)
    assert ("groups/rounds" in records[0]) == (name == "dapo")
    assert ("rewards/soft_overlong/mean" in records[0]) == (name == "dapo")
    assert "rewards/right/mean" in records[0]
