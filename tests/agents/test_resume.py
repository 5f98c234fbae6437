"""Killed at any moment and resumed, a run ends as if it had been left alone; it refuses to go on as another one."""

import json
import random
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from killed import assert_same_run, curve, differences, in_child
from small import Echo

from agents import checkpoint, disk
from agents.fingerprint import fingerprint, weights_hash
from agents.grpo import GRPO
from agents.metrics import read_metrics, read_records
from agents.stored import read_rollout, stored_iterations
from agents.view import read_run
from textenv.tokenizer import TinyTokenizer

SMALL = [
    "policy=tiny",
    "policy.tiny.hidden_size=16",
    "policy.precision=float32",
    "task=target",
    "task._target_=small.Echo",
    "task.length=2",
    "env.max_new_tokens=3",
    "reward=function",
    "reward.function.fn._target_=small.capricious",
    "+reward.function.execution=inline",
    "agent.prompts=3",
    "agent.group_size=4",
    "agent.optim.learning_rate=3e-3",
    "evaluation.samples=0",
    "evaluation.every=2",
    "checkpoint_every=1",
    "iterations=4",
    "logging.rollouts=true",
    "logging.tensorboard=false",
    "threads=1",
]
STEPS = ["agent.optim.epochs=2", "agent.optim.minibatch_rows=4"]
CASES = {
    "grpo, dynamic sampling": ["agent=grpo", "checkpoint_every=2", "agent.resample_rounds=3"],
    "grpo, a renewed reference, several steps": [
        "agent=grpo",
        *STEPS,
        "agent.kl_coef=0.1",
        "agent.reference_every=2",
        "agent.entropy_target=100",
        "agent.entropy_coef=0.01",
    ],
    "ppo, horizon, normalized values, an entropy to reach": [
        "agent=ppo",
        *STEPS,
        "agent.kl_coef=0.1",
        "agent.kl_controller=horizon",
        "agent.kl_horizon=90",
        "agent.normalize_values=true",
        "agent.whiten_rewards=returns",
        "agent.entropy_coef=0.01",
        "agent.entropy_target=0.5",
        "agent.critic_warmup=1",
    ],
    "ppo, halving twice, separate critic": [
        "agent=ppo",
        *STEPS,
        "agent.kl_coef=0.1",
        "agent.kl_controller=halving",
        "agent.objective=penalty",
        "agent.critic=separate",
        "policy.lora.rank=2",
    ],
    "trpo": ["agent=trpo"],
}
MOMENTS = ("evaluate.py", "collect.py", "checkpoint.py", "serialization.py", "optim.py", "stored.py", "metrics.py")
"""Where SIGKILL comes, one after the other in the same run: before the first checkpoint; then at random in collecting,
in writing a checkpoint and its tensors, in an update, in storing a rollout, in writing a line of metrics."""
FORKS = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of a fork beside threads


@pytest.fixture
def warm(run):
    """This process after a run: what is imported on the way need not be imported in every child."""
    assert run(*SMALL, "name=warm", "iterations=1")[0] == 0


@FORKS
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("case", CASES)
def test_killed_again_and_again_a_run_ends_as_if_it_had_been_left_alone(tmp_path, case):
    settings = [*SMALL, *CASES[case]]
    assert in_child([*settings, "name=whole"], tmp_path, counts=tmp_path / "calls") == 0
    calls, chance = json.loads((tmp_path / "calls").read_text()), random.Random(case)
    folder, killed = tmp_path / "runs/killed", 0
    first, *others = MOMENTS
    for place in [first, *chance.sample(others, 2)]:
        arguments = ["resume=runs/killed"] if (folder / "config.yaml").exists() else [*settings, "name=killed"]
        moment = (place, chance.randint(1, max(calls[place] // 3, 1)) if killed else 2)
        code = in_child(arguments, tmp_path, dies_in=moment)
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        for name in ("metrics.jsonl", "completions.jsonl"):
            if (folder / name).exists():  # the last write of the dead process came only half through
                with (folder / name).open("a") as file:
                    file.write('{"iteration": 4, "prom')
                assert all("prom" not in record for record in read_records(folder / name))
    assert killed >= 3
    assert in_child(["resume=runs/killed"], tmp_path) == 0
    assert_same_run(tmp_path / "runs/whole", folder)


@FORKS
def test_an_examination_changes_nothing_of_what_is_learned(tmp_path):
    """Not even where the reward draws from the global generators."""
    for name, every in (("often", 1), ("never", 0)):
        assert in_child([*SMALL, "agent=ppo", f"name={name}", f"evaluation.every={every}"], tmp_path) == 0
    often, never = (checkpoint.load(tmp_path / "runs" / name)[1]["agent"] for name in ("often", "never"))
    assert list(differences(often, never)) == []
    assert curve(tmp_path / "runs/never") == [
        {name: x for name, x in record.items() if not name.startswith("eval/")}
        for record in curve(tmp_path / "runs/often")
    ]


def test_the_checkpoint_of_the_end_knows_what_was_measured_at_the_end(run, tmp_path):
    run(*SMALL, "name=one", "evaluation.every=0")
    summary = json.loads((tmp_path / "runs/one/summary.json").read_text())
    assert checkpoint.metric(tmp_path / "runs/one", 4) == summary["accuracy"]["after"]
    run(*SMALL, "name=two", "evaluation.every=1", "checkpoint_every=100")
    accuracy = [
        summary["accuracy"]["before"],
        *(r["eval/accuracy"] for r in read_metrics(tmp_path / "runs/two/metrics.jsonl")),
    ]
    assert checkpoint.best_iteration(tmp_path / "runs/two") == accuracy.index(max(accuracy))


def test_a_checkpoint_that_does_better_than_all_before_is_kept_although_it_is_not_due(run, tmp_path, monkeypatch):
    from agents.run import Run

    examine, scores = Run.examine, iter([0.1, 0.5, 0.9, 0.2, 0.3])

    def told(self, **options):
        found = examine(self, **options)
        self.counters.accuracy = next(scores)
        return found

    monkeypatch.setattr(Run, "examine", told)
    run(*SMALL, "name=one", "evaluation.every=1", "checkpoint_every=100", "iterations=4")
    assert checkpoint.iterations(tmp_path / "runs/one") == [2, 4]
    assert checkpoint.metric(tmp_path / "runs/one", 2) == 0.9


def test_a_loss_that_is_not_finite_leaves_the_state_and_the_rollout_that_it_came_of(run, tmp_path, monkeypatch):
    calls, loss = [], GRPO.loss

    def broken(self, *rows):
        calls.append(1)
        result = loss(self, *rows)
        return replace(result, loss=result.loss * torch.nan) if len(calls) == 3 else result

    monkeypatch.setattr(GRPO, "loss", broken)
    code, out, err = run(*SMALL, "agent=grpo", "name=one", "logging.rollouts=false", "env.scoring=immediate")
    assert code not in (0, None)
    assert "the loss of rows" in err
    assert "the state and the rollout are in runs/one/failure" in err
    assert "Traceback" not in out + err
    failure = tmp_path / "runs/one/failure"
    assert stored_iterations(failure) == [3]
    stored = read_rollout(failure, 3)
    assert len(stored) == 12
    assert stored.weights == ""  # not known: nothing was to be stored until the update had begun
    assert len(read_run(str(failure)).completions) == 12
    state = checkpoint.load(failure, 3)[1]
    before = checkpoint.load(tmp_path / "runs/one", 2)[1]
    assert list(differences(state["agent"]["optimizer"]["actor"], before["agent"]["optimizer"]["actor"])) == []


def jsonl(path, *answers):
    path.write_text(
        "".join(json.dumps({"question": f"{path.stem} {k} =", "answer": str(a)}) + "\n" for k, a in enumerate(answers))
    )


JSONL = ["policy=tiny", "policy.tiny.hidden_size=16", "task=jsonl", "task.path=data.jsonl", "task.test_path=test.jsonl"]
JSONL += ["agent.prompts=2", "agent.group_size=2", "env.max_new_tokens=2", "evaluation.samples=0", "threads=1"]


@pytest.mark.parametrize(
    ("answers", "what"),
    [([1, 2, 3, 4, 6], "task.train.problems: saved 4, now 5"), ([1, 2, 3, 9], "task.train.rows: saved ")],
)
def test_other_problems_than_the_run_began_with_are_refused(run, tmp_path, answers, what):
    jsonl(tmp_path / "data.jsonl", 1, 2, 3, 4)
    jsonl(tmp_path / "test.jsonl", 5)
    assert run(*JSONL, "name=one", "iterations=1")[0] == 0
    jsonl(tmp_path / "data.jsonl", *answers)
    code, out, err = run("resume=runs/one", "iterations=2")
    assert code not in (0, None)
    assert "error: resume=runs/one cannot go on, what the run began with has changed: task.train." in err
    assert what in err
    assert "task.test" not in err
    assert "Traceback" not in out + err
    assert len(read_metrics(tmp_path / "runs/one/metrics.jsonl")) == 1


def test_a_fingerprint_sees_tokens_and_weights_and_is_the_same_for_the_same():
    model = torch.nn.Linear(2, 2)
    first = fingerprint(Echo(), TinyTokenizer("0123="), model)
    assert fingerprint(Echo(), TinyTokenizer("0123="), model) == first
    assert fingerprint(Echo(), TinyTokenizer("0132="), model)["tokenizer"]["hash"] != first["tokenizer"]["hash"]
    with torch.no_grad():
        model.weight[0, 0] = model.weight[0, 0].nextafter(torch.tensor(9.0))
    assert fingerprint(Echo(), TinyTokenizer("0123="), model)["model"] != first["model"]
    assert weights_hash(model, torch.bfloat16) == weights_hash(model.to(torch.bfloat16))


def rewrite(folder, change):
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    change(settings)
    path.write_text(yaml.safe_dump(settings))


def test_settings_of_another_version_are_named(run, tmp_path):
    run(*SMALL, "agent=grpo", "name=one", "iterations=1")
    folder = tmp_path / "runs/one"
    rewrite(folder, lambda settings: settings["agent"].pop("clip_high"))
    code, out, _ = run("resume=runs/one", "iterations=2")
    assert code == 0
    assert "Settings that are newer than this run take their defaults: agent.clip_high=0.2" in out
    rewrite(folder, lambda settings: settings["agent"]["optim"].update(momentum=0.9))
    code, out, err = run("resume=runs/one", "iterations=3")
    assert code not in (0, None)
    assert "does not know: agent.optim.momentum=0.9" in err
    assert "Traceback" not in out + err


def test_what_a_resume_changes_holds_for_the_next_one(run, tmp_path):
    run(*SMALL, "agent=grpo", "agent.optim.decay=linear", "name=one", "iterations=1")
    folder = tmp_path / "runs/one"
    before = yaml.safe_load((folder / "config.yaml").read_text())
    code, out, _ = run("resume=runs/one", "iterations=4", "max_seconds=1e-6")
    assert code == 0
    assert "Changed from here on: iterations: saved 1, now 4" in out
    text = (folder / "config.yaml").read_text()
    assert text.startswith("# resumed after iteration 1: iterations: saved 1, now 4\n# resumed after iteration 1: max")
    assert yaml.safe_load(text) == {**before, "iterations": 4, "max_seconds": 1e-6}
    code, out, _ = run("resume=runs/one", "max_seconds=null")
    assert code == 0
    assert [record["iteration"] for record in curve(folder)] == [1, 2, 3, 4]
    assert (folder / "config.yaml").read_text().count("# resumed after") == 3
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {**before, "iterations": 4}


def without_a_part(state):
    del state["agent"]["optimizer"]


def with_an_unknown_counter(state):
    state["counters"]["weeks"] = 3


def of_another_shape(state):
    actor = state["agent"]["optimizer"]["actor"]
    actor[next(name for name in actor if name.endswith("norm.weight"))] = torch.zeros(3)


@pytest.mark.parametrize("change", [without_a_part, with_an_unknown_counter, of_another_shape])
def test_a_state_that_does_not_fit_is_refused_in_one_line(run, tmp_path, change):
    run(*SMALL, "agent=grpo", "name=one", "iterations=1")
    iteration, state = checkpoint.load(tmp_path / "runs/one")
    change(state)
    checkpoint.save(tmp_path / "runs/one", iteration, state)
    code, out, err = run("resume=runs/one", "iterations=2")
    assert code not in (0, None)
    assert "error: resume=runs/one: the checkpoint of iteration 1 does not fit this program or this model" in err
    assert "Traceback" not in out + err


def test_too_little_room_is_said_in_one_line_and_the_earlier_checkpoint_stays(run, tmp_path, monkeypatch):
    usage, asked = disk.shutil.disk_usage, []

    def full(path):
        asked.append(path)
        return usage(path) if len(asked) < 3 else usage(path)._replace(free=1000)

    monkeypatch.setattr(disk.shutil, "disk_usage", full)
    code, out, err = run(*SMALL, "agent=grpo", "name=one", "keep_checkpoints=9", "evaluation.every=0")
    assert code not in (0, None)
    assert err.startswith("error: a checkpoint in runs/one/checkpoints needs ")
    assert "0 MB are free on that disk. Make room, then go on with: resume=runs/one" in err
    assert "Traceback" not in out + err
    assert checkpoint.iterations(tmp_path / "runs/one") == [0, 1]
    assert checkpoint.load(tmp_path / "runs/one")[0] == 1
