"""Runs in child processes that SIGKILL ends in the middle of things, and whether two runs are the same, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from agents import checkpoint
from agents.metrics import read_metrics
from agents.stored import read_rollouts

PLACES = ("/agents/", "/torch/serialization.py")
CLOCK = ("time/", "tokens_per_second", "memory/", "scoring/")


def in_child(
    arguments: list[str], cwd: Path, *, dies_in: tuple[str, int] | None = None, counts: Path | None = None
) -> int:
    """`python -m agents.train` in a fork of this process, which has imported everything; its exit code.

    `dies_in=("collect.py", 7)`: SIGKILL at the seventh call of a function of that file. `counts` is where to write how
    often functions of each file were called.
    """
    from agents import summary, train

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.chdir(cwd)
        sys.argv = ["train", *arguments]
        calls: Counter[str] = Counter()
        prepare = train.prepare

        def watched(*args: Any) -> Any:
            sys.setprofile(lambda frame, event, _: called(calls, frame, dies_in) if event == "call" else None)
            return prepare(*args)

        train.prepare = watched
        summary.draw_curves = lambda *args, **options: None  # half of the time
        train.main()
        sys.setprofile(None)
        if counts is not None:
            counts.write_text(json.dumps(calls))
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        os._exit(code)


def called(calls: Counter[str], frame: Any, dies_in: tuple[str, int] | None) -> None:
    """Count a call by its file's name, and die at the one that is meant."""
    path = frame.f_code.co_filename
    if any(place in path for place in PLACES):
        name = os.path.basename(path)
        calls[name] += 1
        if (name, calls[name]) == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)


def assert_same_run(one: Path, two: Path) -> None:
    """The same last checkpoint, metrics, completions and rollouts; only what the clock says may differ."""
    (first, state), (second, other) = checkpoint.load(one), checkpoint.load(two)
    assert first == second
    assert list(differences(state, other)) == []
    assert curve(one) == curve(two)
    assert (one / "completions.jsonl").read_bytes() == (two / "completions.jsonl").read_bytes()
    if (one / "rollouts").exists():
        for a, b in zip(read_rollouts(one), read_rollouts(two), strict=True):
            assert (a.iteration, a.settings, a.weights, a.samples, a.verdicts) == (
                b.iteration,
                b.settings,
                b.weights,
                b.samples,
                b.verdicts,
            )
            assert torch.equal(a.ratio.nan_to_num(-1.0), b.ratio.nan_to_num(-1.0))
            assert torch.equal(a.advantage, b.advantage)
            assert torch.equal(a.rollout.tokens, b.rollout.tokens)


def curve(folder: Path) -> list[dict[str, float]]:
    """The metrics that do not depend on the clock."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{name: x for name, x in record.items() if not name.startswith(CLOCK)} for record in records]


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Where two states differ in a bit; the seconds are the clock's."""
    if path.endswith(".train_seconds"):
        return
    if type(a) is not type(b):
        yield f"{path}: {type(a)} and {type(b)}"
    elif isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
        yield from () if same else (path,)
    elif isinstance(a, dict):
        yield from () if a.keys() == b.keys() else (f"{path}: {sorted(a)} and {sorted(b)}",)
        for name in a.keys() & b.keys():
            yield from differences(a[name], b[name], f"{path}.{name}")
    elif isinstance(a, list | tuple):
        yield from () if len(a) == len(b) else (f"{path}: {len(a)} and {len(b)}",)
        for place, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{path}[{place}]")
    elif a != b:
        yield f"{path}: {a!r} and {b!r}"


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.uint8) if x.dim() else x.reshape(1).view(torch.uint8)
