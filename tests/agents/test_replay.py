"""`python -m agents.replay`: what is stored, what another reward says, what other losses would have done."""

import json
import math
import sys

import pytest
import torch
from finished_runs import finish_run

from agents.comparison import cosine_table, named_agent
from agents.config import LoggingConfig
from agents.grpo import GRPOConfig
from agents.optim import OptimConfig
from agents.replay import main
from agents.stored import read_rollout

OPTIM = OptimConfig(learning_rate=0.02)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish_run(
        tmp_path_factory.mktemp("runs"),
        agent=GRPOConfig(prompts=3, group_size=4, optim=OPTIM),
        logging=LoggingConfig(tensorboard=False, rollouts=True),
        keep_checkpoints=1,
    )


@pytest.fixture
def replay(monkeypatch, capsys, tmp_path):
    """The command line in this process: `(exit code or message, stdout)`."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["replay", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().out

    return call


def rows(text):
    return [line.split() for line in text.splitlines() if line.split()]


def test_without_options_every_iteration_is_a_line(run, replay):
    code, out = replay(f"run={run}")
    assert code == 0
    header, *lines = rows(out)
    assert header[:5] == ["iteration", "completions", "prompts", "tokens", "reward"]
    assert [line[:3] for line in lines] == [[str(i), "12", "3"] for i in (1, 2, 3)]
    stored = read_rollout(run, 2)
    assert float(lines[1][4]) == pytest.approx(float(stored.rollout.returns.mean()), abs=1e-3)
    assert lines[1][-1] == stored.weights
    assert len(rows(replay(f"run={run}", "iteration=2")[1])) == 2


def test_the_same_reward_says_the_same(run, replay):
    fn = "reward.function.fn._target_"
    code, out = replay(f"run={run}", "reward=function", f"{fn}=small.share_right", "+reward.function.execution=inline")
    assert code == 0
    assert "36 completions" in out
    assert "correlation           1.000" in out
    assert "verdicts that change  0 at 1" in out
    assert "episode" not in out


def test_another_reward_is_compared_completion_by_completion(run, replay, tmp_path):
    arguments = [
        "reward=function",
        "reward.function.fn._target_=small.share_wrong",
        "+reward.function.execution=inline",
    ]
    code, out = replay(f"run={run}", *arguments, "output=scores.jsonl", "examples=2")
    assert code == 0
    assert "correlation           -1.000" in out
    assert "within a prompt's     -1.000" in out
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(lines) == 36
    assert all(line["before"] + line["after"] == pytest.approx(1) for line in lines)
    right = sum(line["before"] == 1 for line in lines)
    wrong = sum(line["before"] == 0 for line in lines)
    assert f"verdicts that change  {right + wrong} at 1 ({wrong} now right, {right} now wrong)" in out
    assert out.count("iteration ") == 2
    assert "is there already" in str(replay(f"run={run}", *arguments, "output=scores.jsonl")[0])


def test_losses_are_compared_on_the_same_rollout(run, replay):
    words = 'loss=[grpo,"grpo agent.scale_advantages=none","ppo agent.whiten_advantages=false"]'
    code, out = replay(f"run={run}", "iteration=1", words)
    assert code == 0
    assert "The 12 completions of iteration 1" in out
    lines = [line for line in out.splitlines() if line[:1].isdigit()]
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    own, same, unscaled, ppo = (list(map(number, line.split()[-8:])) for line in lines)
    assert own[1:4] == [own[1], 0, 1]
    assert own[4:] == same[4:]
    assert own[5] == same[5] == 1
    assert 0.5 < unscaled[4] <= 1
    assert unscaled[1] != own[1]
    assert -1 <= ppo[4] <= 1


def number(text):
    return math.nan if text == "-" else float(text)


def test_a_later_checkpoint_shows_ratios_other_than_one(run, replay):
    code, out = replay(f"run={run}", "iteration=1", "checkpoint=last", "loss=[grpo]")
    assert code == 0
    assert "under the policy after iteration 3 (that after 0 wrote them)" in out
    line = next(line for line in out.splitlines() if line.startswith("1"))
    assert float(line.split()[-3]) != 1


def test_the_gradient_is_that_of_the_update(run):
    """One step of plain descent on iteration 1 goes where the reported gradient points."""
    from agents.comparison import compare_losses
    from agents.run_folder import RunFolder
    from agents.saved import saved_config

    config = saved_config(RunFolder(run))
    stored = read_rollout(run, 1)
    (report,) = compare_losses(
        config,
        stored.rollout,
        {"own": config.agent},
        vocabulary=7,
        state=None,
        expected_weights=stored.weights,
        say=refuse,
    )
    from agents.metrics import read_metrics

    assert report.norm == pytest.approx(read_metrics(run / "metrics.jsonl")[0]["grad_norm"], rel=1e-4)
    assert report.loss == pytest.approx(read_metrics(run / "metrics.jsonl")[0]["loss"], abs=1e-6)


def refuse(text):
    raise AssertionError(text)


def test_cosines_of_a_zero_gradient_are_no_numbers():
    table = cosine_table([torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0])])
    assert table[1, 1] == 1
    assert table[0].isnan().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=nowhere"], "nowhere is not the folder of a run"),
        ([], "run must be given"),
        (["run=RUN", "iteration=9"], "no stored rollout of iteration 9 (there: 1 to 3, 3 of them)"),
        (["run=RUN", "iteration=9", "loss=[grpo]"], "no stored rollout of iteration 9"),
        (["run=RUN", "loss=[nonsense]"], "loss must be of "),
        (["run=RUN", "loss=['grpo agent.group_size=1']"], "agent.group_size must be at least 2"),
        (["run=RUN", "loss=['grpo agent.clip=1']"], "cannot be composed"),
        (["run=RUN", "loss=[grpo]", "checkpoint=77"], "no checkpoint of iteration 77"),
        (["run=RUN", "loss=[grpo]", "checkpoint=second"], "checkpoint must be last, best or an iteration"),
        (["run=RUN", "reward=length"], "Missing mandatory value: max_length full_key: reward.length.fn.max_length"),
        (["run=RUN", "loss=[grpo]", "reward=math"], "one of reward and loss"),
        (["run=RUN", "checkpoint=last", "reward=math"], "checkpoint=last needs a loss"),
        (
            ["run=RUN", "reward=function", "reward.function.fn._target_=small.wants_a_colour"],
            "asks for column 'colour'",
        ),
    ],
)
def test_a_mistake_ends_in_one_line(run, replay, arguments, message):
    code, out = replay(*(argument.replace("RUN", str(run)) for argument in arguments))
    assert message in str(code)
    assert "Traceback" not in out


def test_weights_that_are_gone_are_said_to_be(tmp_path, replay):
    lost = finish_run(
        tmp_path / "runs",
        agent=GRPOConfig(prompts=2, group_size=2, optim=OPTIM),
        logging=LoggingConfig(tensorboard=False, rollouts=True),
        keep_checkpoints=1,
        checkpoint_every=100,
    )
    code, _ = replay(f"run={lost}", "iteration=3", "loss=[grpo]")
    assert "the weights that acted in iteration 3 have no checkpoint (there: " in str(code)


def test_a_run_without_rollouts_is_told_how_to_store_them(tmp_path, replay):
    plain = finish_run(tmp_path / "runs", iterations=1)
    for arguments in ([], ["loss=[grpo]"], ["reward=math"]):
        assert "no stored rollouts: train with logging.rollouts=true" in str(replay(f"run={plain}", *arguments)[0])


def test_words_of_a_loss_add_up():
    agent = named_agent("ppo agent.lam=0.5")
    assert (agent.name, agent.lam) == ("ppo", 0.5)
    assert named_agent("seed").optim.epochs == 4
