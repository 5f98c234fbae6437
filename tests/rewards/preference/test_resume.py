"""A training that is interrupted, killed or broken goes on to the weights that it would have had."""

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from rewards.preference import RewardModel, training
from rewards.preference.config import TinyConfig, TrainConfig
from rewards.preference.lora import LoraConfig
from rewards.preference.tokenizer import byte_tokenizer
from rewards.preference.training import train
from rewards.preference.unfinished import Stopped, Unfinished, resumed
from rewards.types import Sample

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
synthetic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(synthetic)
SMALL = {"max_length": 64, "tiny": TinyConfig(16, 1, 2), "batch_size": 8, "epochs": 2, "checkpoint_every": 4}
"""60 pairs, 6 of them held out: 7 steps an epoch."""


@pytest.fixture
def data(tmp_path):
    synthetic.write_pairs(tmp_path / "pairs.jsonl", 60, seed=0)
    return tmp_path / "pairs.jsonl"


@pytest.fixture
def settings(data, tmp_path):
    return SMALL | {"data": str(data), "output": str(tmp_path / "rm")}


def quiet(**settings):
    screen = io.StringIO()
    return train(TrainConfig(**settings), console=Console(file=screen)), screen.getvalue()


@pytest.fixture
def at_step(monkeypatch):
    """Do something when a step is logged, before its state is saved."""
    log_step = training.log_step

    def arrange(step, action):
        def logged(file, now, metrics):
            log_step(file, now, metrics)
            if now == step:
                monkeypatch.setattr(training, "log_step", log_step)
                action()

        monkeypatch.setattr(training, "log_step", logged)

    return arrange


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def broken():
    raise RuntimeError("the disk is full")


def weights(folder):
    return {**load_file(folder / "backbone/model.safetensors"), **load_file(folder / "head.safetensors")}


def same_model(left, right):
    mine, others = weights(left), weights(right)
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def language_model(folder):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "kind",
    [{}, {"loss": "plackett_luce", "schedule": "cosine", "microbatch_size": 3}, {"lora": LoraConfig(rank=2)}],
    ids=["all weights", "plackett luce", "lora"],
)
@pytest.mark.parametrize("step", [2, 9])
def test_an_interrupted_training_ends_with_the_weights_of_one_that_was_not(settings, tmp_path, at_step, kind, step):
    settings |= kind | {"model": language_model(tmp_path / "lm"), "learning_rate": 1e-2}
    summary, _ = quiet(**settings | {"output": str(tmp_path / "whole")})
    at_step(step, interrupt)
    with pytest.raises(Stopped, match=rf"stopped after step {step} of 14; .*resume={tmp_path / 'rm'}$"):
        quiet(**settings)
    assert not (tmp_path / "rm").exists()
    resumed, _ = quiet(**settings, resume=settings["output"])
    assert same_model(tmp_path / "rm", tmp_path / "whole")
    assert resumed["eval"] == summary["eval"]
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("rm", "whole")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0].splitlines()] == list(range(1, 15))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm", "pairs.jsonl", "rm", "whole"]
    assert len(RewardModel(tmp_path / "rm").score_batch([Sample("1:", "abc")])) == 1


def test_it_is_interrupted_as_often_as_one_likes(settings, tmp_path, at_step):
    quiet(**settings | {"output": str(tmp_path / "whole")})
    resume = {}
    for step in (1, 5, 13):
        at_step(step, interrupt)
        with pytest.raises(Stopped):
            quiet(**settings, **resume)
        resume = {"resume": settings["output"]}
    quiet(**settings, **resume)
    assert same_model(tmp_path / "rm", tmp_path / "whole")


@pytest.mark.parametrize(("step", "kept"), [(7, 4), (3, None)])
def test_what_breaks_loses_the_steps_since_the_last_checkpoint(settings, tmp_path, at_step, step, kept):
    quiet(**settings | {"output": str(tmp_path / "whole")})
    at_step(step, broken)
    with pytest.raises(RuntimeError, match="the disk is full"):
        quiet(**settings)
    unfinished = Unfinished.of(settings["output"])
    assert unfinished.exists() == (kept is not None)
    if kept is not None:
        assert torch.load(unfinished.state, weights_only=True)["step"] == kept
        quiet(**settings, resume=settings["output"])
        assert same_model(tmp_path / "rm", tmp_path / "whole")


def test_a_second_interrupt_leaves_at_once_and_keeps_the_checkpoint(settings, tmp_path, at_step):
    quiet(**settings | {"output": str(tmp_path / "whole")})

    def twice():
        interrupt()
        interrupt()

    at_step(6, twice)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match=r"left at once; .* Go on with: "):
        quiet(**settings)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(Unfinished.of(settings["output"]).state, weights_only=True)["step"] == 4
    quiet(**settings, resume=settings["output"])
    assert same_model(tmp_path / "rm", tmp_path / "whole")


@pytest.fixture
def stopped(settings, at_step):
    """The settings of a training that was interrupted."""
    at_step(3, interrupt)
    with pytest.raises(Stopped):
        quiet(**settings)
    return settings


def test_other_settings_are_refused_with_the_list_of_differences(stopped):
    changed = stopped | {"epochs": 3, "lora": LoraConfig(rank=4), "resume": stopped["output"]}
    rule = r"goes on with the settings .*: epochs: saved 2, now 3; lora\.rank: saved 0, now 4\. Free to change: "
    with pytest.raises(ValueError, match=rule):
        quiet(**changed)
    free = {"checkpoint_every": 50, "microbatch_size": 4}
    assert quiet(**stopped | free, resume=stopped["output"])[0]["train_judgements"] == 54


def test_other_data_are_refused(stopped, data):
    data.write_text(data.read_text() + '{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(ValueError, match=r"content of data: saved '[0-9a-f]{16}', now '[0-9a-f]{16}'"):
        quiet(**stopped, resume=stopped["output"])


def test_a_training_under_way_is_not_started_again_by_accident(stopped):
    with pytest.raises(ValueError, match=r"is under way, .*rm\.unfinished holds its state: go on with .* resume="):
        quiet(**stopped)


def test_there_must_be_something_to_go_on_with(settings, tmp_path):
    with pytest.raises(
        ValueError, match=r"resume must be the output of an interrupted training, there is no .*rm\.unf"
    ):
        quiet(**settings, resume=settings["output"])
    with pytest.raises(ValueError, match=r"resume must be the output of the training, .*rm, got elsewhere"):
        quiet(**settings, resume="elsewhere")


@pytest.mark.parametrize("content", [b"", b"PK nothing", None])
def test_a_damaged_state_is_named(stopped, content):
    state = Unfinished.of(stopped["output"]).state
    state.write_bytes(state.read_bytes()[:-50] if content is None else content)
    with pytest.raises(ValueError, match=r"state\.pt is damaged or of another model"):
        quiet(**stopped, resume=stopped["output"])


def command(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "rewards.preference.train", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(process, path, steps):
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= steps:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_the_command_says_how_to_go_on_and_does(tmp_path):
    synthetic.write_pairs(tmp_path / "pairs.jsonl", 200, seed=0)
    words = ["data=pairs.jsonl", "max_length=64", "tiny.hidden_size=16", "tiny.num_heads=2", "epochs=6", "batch_size=4"]
    process = command(tmp_path, *words, "output=runs/rm")
    wait_for_steps(process, tmp_path / "runs/rm.unfinished/metrics.jsonl", 5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Go on with: python -m rewards.preference.train resume=runs/rm" in err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["rm.unfinished"]
    refused = command(tmp_path, "resume=runs/rm", "epochs=7")
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 1
    assert "epochs: saved 6, now 7" in err
    assert "Traceback" not in err
    killed = command(tmp_path, "resume=runs/rm", "checkpoint_every=20")
    wait_for_steps(killed, tmp_path / "runs/rm.unfinished/metrics.jsonl", 60)
    killed.kill()
    killed.communicate()
    last = command(tmp_path, "resume=runs/rm")
    _, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["rm"]
    whole = command(tmp_path, *words, "output=runs/whole")
    _, err = whole.communicate(timeout=240)
    assert whole.returncode == 0, err
    assert same_model(tmp_path / "runs/rm", tmp_path / "runs/whole")


def test_settings_are_read_back_and_changed_by_the_command_line(stopped, tmp_path):
    config = resumed(stopped["output"], [f"resume={stopped['output']}", "microbatch_size=2"])
    assert config == TrainConfig(**stopped, microbatch_size=2, resume=stopped["output"])
    with pytest.raises(ValueError, match="Key 'epoch' not in 'TrainConfig'"):
        resumed(stopped["output"], ["epoch=3"])
    with pytest.raises(ValueError, match=r"there is no .*elsewhere\.unfinished/settings\.json"):
        resumed(str(tmp_path / "elsewhere"), [])


def test_the_folder_of_the_state_can_be_removed_to_start_again(stopped):
    shutil.rmtree(Unfinished.of(stopped["output"]).path)
    assert quiet(**stopped)[0]["train_judgements"] == 54
