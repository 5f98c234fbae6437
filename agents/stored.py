"""Rollouts on the disk: what an update learned from, one file an iteration, read back bit for bit.

    <run>/rollouts/iteration_000012.pt    torch.save, loadable with weights_only=True

A file holds tensors, plain Python and the hashes of settings and weights; it is written beside its name and renamed,
so that a process that is killed leaves every earlier one. `python -m agents.replay` reads them, as may anyone:

    for stored in read_rollouts("runs/NAME"):
        print(stored.iteration, stored.rollout.returns.mean(), stored.samples[0].completion)

A completion of 24 tokens takes about 1.5 KB, one of 1,000 tokens about 35 KB.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from agents.checkpoint import PLAIN, write_atomically
from agents.rollout import Rollout
from rewards.scoring import Verdict
from rewards.types import Sample, Score

FOLDER = "rollouts"
PREFIX = "iteration_"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """An iteration's rollout, as its update had it. Row i of every tensor is `samples[i]` and `verdicts[i]`."""

    iteration: int
    """As in `metrics.jsonl`: the first is 1."""
    settings: str
    """Hash of the run's settings, those left out that a resumed run may change."""
    weights: str
    """Hash of the weights that acted: those of the checkpoint of `iteration - 1`. Empty where it was not taken in time,
    before an update that failed."""
    rollout: Rollout
    """With what the update added: `old_logprob`, `reference_logprob`, `value`; `entropy` where it was logged."""
    advantage: Float[Tensor, "N A"] | Float[Tensor, "N"] | None
    """As the losses used it, one a token or one a row; None for an agent that does not say."""
    ratio: Float[Tensor, "N A"]
    """Probability of the token over that under the old policy, when the update came by it last; NaN where it never
    did: outside the mask, in rows that were skipped (advantage 0), after an early stop."""
    clipped: Int[Tensor, "N A"]
    """Then: 1 clipped above, -1 clipped below, else 0."""
    samples: list[Sample]
    """What was scored."""
    verdicts: list[Verdict]
    """What came of it, part by part."""

    def __len__(self) -> int:
        return len(self.samples)


def write_rollout(folder: Path | str, stored: Stored) -> Path:
    """Write an iteration under the run's `folder`, all of it or nothing; returns the file.

    Raises `ValueError` for a row of the task that holds what no file of plain data can.
    """
    values = {f.name: x for f in fields(Rollout) if (x := getattr(stored.rollout, f.name)) is not None}
    values["tokens"] = values["tokens"].to(torch.int32)
    content = {
        "version": VERSION,
        **{name: getattr(stored, name) for name in ("iteration", "settings", "weights", "advantage", "ratio")},
        "clipped": stored.clipped.to(torch.int8),
        "rollout": values,
        "samples": [_sample_content(sample) for sample in stored.samples],
        "verdicts": [_verdict_content(verdict) for verdict in stored.verdicts],
    }
    path = _path(folder, stored.iteration)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(_owned(content), buffer)
    write_atomically(path, buffer.getvalue())
    return path


def stored_iterations(folder: Path | str) -> list[int]:
    """The iterations whose rollouts are there, in ascending order."""
    return sorted(int(path.stem.removeprefix(PREFIX)) for path in _folder(folder).glob(f"{PREFIX}*.pt"))


def read_rollout(folder: Path | str, iteration: int) -> Stored:
    """An iteration's rollout, on the CPU. Raises `ValueError` where it is not there or cannot be read."""
    path = _path(folder, iteration)
    if not path.is_file():
        there = stored_iterations(folder)
        known = f"{there[0]} to {there[-1]}, {len(there)} of them" if there else "none"
        hint = "" if there else ": train with logging.rollouts=true"
        raise ValueError(f"{folder} has no stored rollout of iteration {iteration} (there: {known}){hint}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["version"] != VERSION:
            raise ValueError(f"its version is {content['version']}, this reader's {VERSION}")
        return _stored(content)
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {reason})") from error


def read_rollouts(folder: Path | str) -> Iterator[Stored]:
    """All of a run's, in order, one in memory at a time. Raises `ValueError` where there is none."""
    iterations = stored_iterations(folder)
    if not iterations:
        raise ValueError(f"{folder} has no stored rollouts: train with logging.rollouts=true")
    return (read_rollout(folder, iteration) for iteration in iterations)


def forget_after(folder: Path | str, iteration: int) -> None:
    """Remove the rollouts after `iteration`, a past that was given up, and what a crash left half-written."""
    for known in stored_iterations(folder):
        if known > iteration:
            _path(folder, known).unlink()
    for scratch in _folder(folder).glob(f".{PREFIX}*.tmp"):
        scratch.unlink()


def _stored(content: Mapping[str, Any]) -> Stored:
    values = content["rollout"] | {"tokens": content["rollout"]["tokens"].long()}
    rollout = Rollout(**values)
    names = ("iteration", "settings", "weights", "advantage", "ratio", "clipped")
    return Stored(
        **{name: content[name] for name in names},
        rollout=rollout,
        samples=[_sample(one, rollout, row) for row, one in enumerate(content["samples"])],
        verdicts=[_verdict(one) for one in content["verdicts"]],
    )


def _sample_content(sample: Sample) -> dict[str, Any]:
    """A sample without its tokens, which the rollout has."""
    return {
        "prompt": sample.prompt,
        "completion": sample.completion,
        "messages": [dict(message) for message in sample.messages],
        "finish_reason": sample.finish_reason,
        "row": {str(name): _plain(value, f"row.{name}") for name, value in sample.row.items()},
        "group_id": int(sample.group_id),
    }


def _sample(content: Mapping[str, Any], rollout: Rollout, row: int) -> Sample:
    response = rollout.tokens[row, int(rollout.prompt_length[row]) : int(rollout.length[row])]
    ids = response[rollout.mask[row, : len(response)]].numpy().astype(np.int32)
    return Sample(**{**content, "messages": tuple(content["messages"])}, completion_ids=ids)


def _verdict_content(verdict: Verdict) -> dict[str, Any]:
    return {
        "value": float(verdict.value),
        "parts": {name: _score_content(score) for name, score in verdict.parts.items()},
        "valid": bool(verdict.valid),
        "reason": verdict.reason,
        "spans": [(int(start), int(end), float(reward)) for start, end, reward in verdict.spans],
    }


def _score_content(score: Score) -> dict[str, Any]:
    return {
        "value": float(score.value),
        "metrics": {name: float(number) for name, number in score.metrics.items()},
        "info": {str(name): _shown(value) for name, value in score.info.items()},
        "spans": [(int(start), int(end), float(reward)) for start, end, reward in score.spans],
    }


def _verdict(content: Mapping[str, Any]) -> Verdict:
    parts = {name: Score(**{**score, "spans": tuple(score["spans"])}) for name, score in content["parts"].items()}
    return Verdict(content["value"], parts, content["valid"], content["reason"], tuple(content["spans"]))


def _plain(value: Any, where: str) -> Any:
    """`value` out of dicts, lists, tuples, numbers, strings and None; arrays become lists."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), where)
    if isinstance(value, Mapping):
        return {_plain(name, where): _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}[{place}]") for place, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    for kind in (str, int, float):  # an enumeration's member, a string of one's own
        if isinstance(value, kind):
            return kind(value)
    raise ValueError(
        f"logging.rollouts=true stores plain data, the task's {where} is a {type(value).__module__}."
        f"{type(value).__qualname__}: numbers, strings, lists, tuples, mappings and arrays can be stored"
    )


def _shown(value: Any) -> Any:
    """What a reward says for people: as it is, or how Python shows it."""
    try:
        return _plain(value, "info")
    except ValueError:
        return repr(value)


def _owned(value: Any) -> Any:
    """The same with tensors that own what they show: of a slice torch would write all that lies behind it."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    return {name: _owned(item) for name, item in value.items()} if isinstance(value, dict) else value


def _folder(folder: Path | str) -> Path:
    return Path(folder) / FOLDER


def _path(folder: Path | str, iteration: int) -> Path:
    return _folder(folder) / f"{PREFIX}{iteration:06d}.pt"
