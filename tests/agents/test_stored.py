"""Rollouts on the disk: what an update learned from comes back bit for bit."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from finished_runs import finish_run
from small import ragged_rollout

from agents import checkpoint
from agents.config import LoggingConfig
from agents.fingerprint import weights_hash
from agents.metrics import read_metrics, read_records
from agents.optim import OptimConfig
from agents.ppo import PPOConfig
from agents.rollout import Rollout
from agents.saved import load_policy, open_run
from agents.stored import Stored, forget_after, read_rollout, read_rollouts, stored_iterations, write_rollout
from agents.trpo import TRPOConfig
from rewards.scoring import Verdict
from rewards.types import Sample, Score

SEVERAL = OptimConfig(learning_rate=0.05, epochs=3, minibatch_rows=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """PPO with several steps a rollout, so that ratios move and are clipped."""
    agent = PPOConfig(prompts=2, group_size=4, kl_coef=0.1, optim=SEVERAL)
    logging = LoggingConfig(tensorboard=False, rollouts=True, entropy=True)
    return finish_run(tmp_path_factory.mktemp("runs"), agent=agent, logging=logging)


def stored_by_hand(rollout, row):
    count = len(rollout)
    part = Score(0.5, {"seconds": 0.25}, {"reason": "half", "tree": object()}, ((0, 1, 0.5),))
    responses = [rollout.tokens[i, rollout.prompt_length[i] : rollout.length[i]] for i in range(count)]
    ids = [response[rollout.mask[i, : len(response)]] for i, response in enumerate(responses)]
    messages = ({"role": "user", "content": "?"},)
    return Stored(
        iteration=7,
        settings="abc",
        weights="def",
        rollout=rollout,
        advantage=torch.randn(count),
        ratio=torch.rand(rollout.mask.shape).masked_fill(~rollout.mask, torch.nan),
        clipped=torch.tensor([-1, 0, 1]).repeat(rollout.mask.numel())[: rollout.mask.numel()].view(rollout.mask.shape),
        samples=[Sample("p", f"é{i}", messages, "stop", row, i // 2, ids[i].numpy()) for i in range(count)],
        verdicts=[Verdict(0.5, {"right": part}, i != 2, "because", ((0, 1, 0.5),)) for i in range(count)],
    )


def test_everything_comes_back_bit_for_bit(tmp_path):
    rollout = ragged_rollout(
        reward=torch.randn(6, 7), value=torch.randn(6, 7), valid=torch.tensor([1, 1, 0, 1, 1, 1]) > 0
    )
    row = {"answer": "4", "tests": [("a", 1, None), {"x": 0.1}], "deep": {"flag": True}}
    stored = stored_by_hand(rollout, row)
    path = write_rollout(tmp_path, stored)
    assert path == tmp_path / "rollouts" / "iteration_000007.pt"
    back = read_rollout(tmp_path, 7)
    for field in fields(Rollout):
        was, now = getattr(rollout, field.name), getattr(back.rollout, field.name)
        assert (was is None) == (now is None)
        assert was is None or (was.dtype == now.dtype and torch.equal(was, now)), field.name
    assert (back.iteration, back.settings, back.weights) == (7, "abc", "def")
    assert torch.equal(back.advantage, stored.advantage)
    assert torch.equal(back.ratio.nan_to_num(9), stored.ratio.nan_to_num(9))
    assert torch.equal(back.clipped, stored.clipped)
    assert back.samples == stored.samples
    assert all(
        a.completion_ids.tolist() == list(b.completion_ids) for a, b in zip(back.samples, stored.samples, strict=True)
    )
    assert back.samples[2].completion_ids.dtype == np.int32
    (verdict, *_), (expected, *_) = back.verdicts, stored.verdicts
    assert verdict._replace(parts={}) == expected._replace(parts={})
    assert verdict.parts["right"].info["reason"] == "half"
    assert "object" in verdict.parts["right"].info["tree"]
    assert (verdict.parts["right"].value, verdict.parts["right"].spans) == (0.5, ((0, 1, 0.5),))


def test_what_no_file_of_plain_data_holds_is_refused_by_its_place(tmp_path):
    with pytest.raises(ValueError, match=r"the task's row\.check\[1\] is a builtins\.object"):
        write_rollout(tmp_path, stored_by_hand(ragged_rollout(), {"check": [1, object()]}))
    assert stored_iterations(tmp_path) == []
    write_rollout(tmp_path, stored_by_hand(ragged_rollout(), {"numbers": np.arange(2), "one": np.float32(0.5)}))
    assert read_rollout(tmp_path, 7).samples[0].row == {"numbers": [0, 1], "one": 0.5}


def test_a_run_stores_what_its_updates_had(run):
    stored = list(read_rollouts(run))
    assert [one.iteration for one in stored] == stored_iterations(run) == [1, 2, 3]
    assert len({one.settings for one in stored}) == 1
    metrics, completions = read_metrics(run / "metrics.jsonl"), read_records(run / "completions.jsonl")
    for one, record in zip(stored, metrics, strict=True):
        rollout = one.rollout
        seen = rollout.trainable
        assert all(rollout.known(name) is not None for name in ("old_logprob", "reference_logprob", "value"))
        assert float(rollout.returns.mean()) == pytest.approx(record["reward/mean"])
        assert float(rollout.entropy[seen].mean()) == pytest.approx(record["entropy"], rel=1e-5)
        assert one.advantage.shape == rollout.mask.shape
        assert float(one.advantage[seen].mean()) == pytest.approx(0, abs=1e-5)
        assert not one.ratio[seen].isnan().any()
        assert one.ratio[~seen].isnan().all()
        assert (one.clipped[~seen] == 0).all()
        lines = [line for line in completions if line["iteration"] == one.iteration]
        assert [line["completion"] for line in lines] == [sample.completion for sample in one.samples]
        assert [line["episode"] for line in lines] == rollout.episode.tolist()
        assert [sum(map(float, v.parts.values())) for v in one.verdicts] == pytest.approx(
            [line["reward"] for line in lines]
        )
    ratio = torch.cat([one.ratio[one.rollout.trainable] for one in stored])
    clipped = torch.cat([one.clipped[one.rollout.trainable] for one in stored])
    assert ratio.std() > 1e-3
    assert (ratio[clipped == 1] > 1.2).all()
    assert (ratio[clipped == -1] < 0.8).all()
    assert (clipped != 0).any()


def test_of_a_step_that_was_refused_the_ratios_are_those_of_staying(tmp_path):
    """TRPO's line search tries weights that it does not keep; the ratio of those that it keeps is far from 1."""
    agent = TRPOConfig(prompts=4, group_size=8, max_kl=20.0, line_search_steps=1, optim=OptimConfig(learning_rate=1e-2))
    folder = finish_run(tmp_path, agent=agent, logging=LoggingConfig(tensorboard=False, rollouts=True))
    accepted = [record["line_search/accepted"] for record in read_metrics(folder / "metrics.jsonl")]
    assert set(accepted) == {0.0, 1.0}
    for taken, stored in zip(accepted, read_rollouts(folder), strict=True):
        far = (stored.ratio - 1).abs().nan_to_num(0.0).max()
        assert far > 0.1 if taken else far < 1e-5


def test_the_weights_that_acted_are_those_of_the_checkpoint_before(run):
    for iteration in (1, 3):
        saved = open_run(str(run), str(iteration - 1))
        policy = load_policy(saved.config.policy, 7, weights=saved.weights, precision="float32", seed=saved.config.seed)
        assert weights_hash(policy.model) == read_rollout(run, iteration).weights


def test_storing_changes_nothing_of_what_is_learned(run, tmp_path):
    agent = PPOConfig(prompts=2, group_size=4, kl_coef=0.1, optim=SEVERAL)
    other = finish_run(tmp_path, agent=agent, logging=LoggingConfig(tensorboard=False, entropy=True))
    assert not (other / "rollouts").exists()
    one, two = (checkpoint.load(folder)[1]["agent"]["optimizer"]["actor"] for folder in (run, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_cannot_be_read_is_named(run, tmp_path):
    with pytest.raises(ValueError, match=r"no stored rollout of iteration 9 \(there: 1 to 3, 3 of them\)"):
        read_rollout(run, 9)
    with pytest.raises(ValueError, match=r"no stored rollouts: train with logging\.rollouts=true"):
        read_rollouts(tmp_path)
    path = write_rollout(tmp_path, stored_by_hand(ragged_rollout(), {}))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"iteration_000007\.pt cannot be read"):
        read_rollout(tmp_path, 7)


def test_a_past_that_was_given_up_is_forgotten_with_what_a_crash_left(tmp_path):
    path = write_rollout(tmp_path, stored_by_hand(ragged_rollout(), {}))
    (path.parent / ".iteration_000008.pt.123.tmp").write_bytes(b"half")
    forget_after(tmp_path, 7)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    forget_after(tmp_path, 6)
    assert list(path.parent.iterdir()) == []
    forget_after(tmp_path / "nowhere", 0)
