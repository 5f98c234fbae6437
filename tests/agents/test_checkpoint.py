import json
import math
import os
import resource
import signal
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch

from agents import checkpoint
from agents.checkpoint import best_iteration, config_differences, iterations, load, save, write_atomically
from agents.disk import NO_ROOM


def state(number=0.0):
    return {"weights": {"w": torch.full((3,), number)}, "adam": [torch.zeros(2), 1e-3, None], "task": ("sum", 7, True)}


def weight(loaded):
    return loaded["weights"]["w"][0].item()


def test_a_state_comes_back_as_it_was(tmp_path):
    where = save(tmp_path, 12, state(2.5), best=0.7)
    assert where == tmp_path / "checkpoints" / "iteration_000012"
    assert sorted(p.name for p in where.iterdir()) == ["manifest.json", "state.pt"]
    iteration, loaded = load(tmp_path)
    assert iteration == 12
    assert weight(loaded) == 2.5
    assert loaded["task"] == ("sum", 7, True)
    assert loaded["adam"][1:] == [1e-3, None]
    manifest = json.loads((where / "manifest.json").read_text())
    assert manifest["iteration"] == 12
    assert manifest["metric"] == 0.7
    assert len(manifest["sha256"]) == 64


def test_the_latest_and_the_best_are_kept(tmp_path):
    for i, accuracy in enumerate([0.1, 0.9, 0.9, None, 0.3, math.nan, 0.2]):
        save(tmp_path, i, state(i), keep=2, best=accuracy)
    assert iterations(tmp_path) == [1, 5, 6]
    assert best_iteration(tmp_path) == 1
    assert [weight(load(tmp_path, i)[1]) for i in (1, 5, 6)] == [1, 5, 6]


def test_the_newest_is_loaded_or_the_one_asked_for(tmp_path):
    for i in (8, 9, 10):
        save(tmp_path, i, state(i), keep=3)
    assert load(tmp_path)[0] == 10
    assert load(tmp_path, 8)[0] == 8
    with pytest.raises(
        ValueError, match=r"no checkpoint of iteration 7 in .*checkpoints \(iterations there: 8, 9, 10\)"
    ):
        load(tmp_path, 7)
    with pytest.raises(ValueError, match=r"no checkpoint in .*iterations there: none"):
        load(tmp_path / "elsewhere")


def test_checkpoints_of_a_past_that_was_given_up_are_removed(tmp_path):
    for i in (1, 2, 3):
        save(tmp_path, i, state(i), keep=3, best=i / 10)
    save(tmp_path, 2, state(20), keep=1, best=0.5)
    assert iterations(tmp_path) == [2]
    assert weight(load(tmp_path)[1]) == 20


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "state.pt has sha256": lambda folder: flip_a_byte(folder / "state.pt"),
    "state.pt has 5 bytes, its manifest says": lambda folder: (folder / "state.pt").write_bytes(b"short"),
    "state.pt is missing": lambda folder: (folder / "state.pt").unlink(),
    "manifest.json cannot be read": lambda folder: (folder / "manifest.json").write_text('{"sha256": "ab'),
    "manifest.json cannot be read .FileNotFound": lambda folder: (folder / "manifest.json").unlink(),
    "manifest.json cannot be read .KeyError": lambda folder: (folder / "manifest.json").write_text("{}"),
    "manifest.json cannot be read .TypeError": lambda folder: (folder / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, message):
    save(tmp_path, 1, state(1))
    DAMAGES[message](save(tmp_path, 2, state(2)))
    said = []
    iteration, loaded = load(tmp_path, say=said.append)
    assert (iteration, weight(loaded)) == (1, 1)
    assert len(said) == 1
    assert "iteration_000002" in said[0]
    assert said[0].endswith("going back to iteration_000001")
    with pytest.warns(UserWarning, match=message):
        load(tmp_path)
    with pytest.raises(ValueError, match=f"no intact checkpoint of iteration 2: .*iteration_000002/{message}"):
        load(tmp_path, 2)
    save(tmp_path, 2, state(3))
    assert weight(load(tmp_path)[1]) == 3


def test_no_intact_checkpoint_names_every_file(tmp_path):
    for i in (1, 2):
        flip_a_byte(save(tmp_path, i, state(i)) / "state.pt")
    with pytest.raises(ValueError, match=r"no intact checkpoint: .*000002/state\.pt has sha256 .*; .*000001/state\.pt"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(1.0), r"state\.a\.b\[1\] is a numpy\.float64"),
        (print, r"state\.a\.b\[1\] is a builtins\.builtin_function_or_method"),
        ({(1, 2): 3}, r"state\.a\.b\[1\] has a key of type tuple"),
    ],
)
def test_what_could_not_be_loaded_is_refused_before_anything_is_written(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path, 1, {"a": {"b": [0, value]}})
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        save(tmp_path, 1, {}, keep=0)
    assert list(tmp_path.iterdir()) == []


def test_an_optimizer_after_a_step_can_be_saved(tmp_path):
    model = torch.nn.Linear(2, 1)
    adam = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    save(tmp_path, 0, {"model": OrderedDict(model.state_dict()), "adam": adam.state_dict()})
    loaded = load(tmp_path)[1]
    torch.testing.assert_close(loaded["adam"]["state"][0]["exp_avg"], adam.state_dict()["state"][0]["exp_avg"])


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, 1, state(1))

    def full(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, state(2))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["iteration_000001"]
    assert weight(load(tmp_path)[1]) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of a fork beside threads
def test_a_disk_that_is_full_in_the_middle_of_a_write_says_so(tmp_path):
    """The system's own limit on a file's size stands for it: torch's message alone would speak of a position."""
    save(tmp_path, 1, state(1))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(tmp_path, 2, {"w": torch.zeros(100_000)})
        except OSError as error:
            found = error.errno in NO_ROOM and "iteration_000002 could not be written (File too large)" in str(error)
            os._exit(3 if found else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["iteration_000001"]
    assert weight(load(tmp_path)[1]) == 1


def dies_at_line(number, action):
    """Run `action` in a child process that dies at the n-th line it executes in checkpoint.py; whether it died."""

    def trace(frame, event, arg, *, count=[0]):  # noqa: B006
        if frame.f_code.co_filename != checkpoint.__file__:
            return None
        if event == "line":
            count[0] += 1
            if count[0] == number:
                os._exit(9)
        return trace

    child = os.fork()
    if child == 0:
        sys.settrace(trace)
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of a fork beside threads
@pytest.mark.parametrize("iteration", [1, 2], ids=["the same iteration", "the next iteration"])
def test_death_at_any_line_leaves_a_checkpoint_that_loads(tmp_path, monkeypatch, iteration):
    monkeypatch.setattr(checkpoint.os, "fsync", lambda descriptor: None)  # hundreds of them are slow
    number, died = 0, True
    while died:
        number += 1
        folder = tmp_path / str(number)
        save(folder, 1, state(1), keep=1)
        died = dies_at_line(number, lambda folder=folder: save(folder, iteration, state(2), keep=1))
        found = load(folder)  # without a warning: nothing half-written or half-removed bears a checkpoint's name
        assert (found[0], weight(found[1])) in ((1, 1), (iteration, 2))
        save(folder, iteration, state(3), keep=1)
        assert (iterations(folder), weight(load(folder)[1])) == ([iteration], 3)
        assert len(list((folder / "checkpoints").iterdir())) == 1
    assert number > 50


def test_config_differences_are_dotted_paths():
    saved = {"agent": {"lr": 1e-5, "betas": (0.9, 0.99), "clip": math.nan}, "task": {"columns": {}}, "old": 1, "n": 1}
    current = {
        "agent": {"lr": 2e-5, "betas": [0.9, 0.99], "clip": math.nan},
        "task": {"columns": {"a": None}},
        "n": 1.0,
    }
    assert config_differences(saved, current) == [
        "agent.lr: saved 1e-05, now 2e-05",
        "old: saved 1, now absent",
        "task.columns: saved {}, now absent",
        "task.columns.a: saved absent, now None",
    ]
    assert config_differences(saved, saved) == []
    assert config_differences({}, {}) == []


def test_write_atomically_replaces_the_whole_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, "long before")
    write_atomically(path, b"after")
    assert path.read_text() == "after"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
