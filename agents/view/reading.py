"""Completions from a run's folder: its stored rollouts, else the texts of `completions.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.config import TrainConfig
from agents.run_folder import RunFolder
from agents.saved import saved_config, tokenizer_for
from agents.setup import build_task
from agents.stored import Stored, read_rollout, stored_iterations
from agents.view.later import Later, later_policy
from agents.view.pieces import Pieces
from agents.view.shown import Shown, TokenNumbers

NO_ROLLOUTS = (
    "Text and rewards only: this run stored no rollouts. With logging.rollouts=true every token has its numbers."
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A run's completions."""

    completions: list[Shown]
    subtitle: str
    """What kind of run it is."""
    notice: str = ""
    """What is not shown, and why."""


def read_run(
    path: str, *, limit: int = 4000, iterations: Sequence[int] | None = None, checkpoint: str | None = None
) -> Reading:
    """The completions of `iterations` (None: all), at most about `limit`: then of iterations evenly spaced.

    With a `checkpoint` every token is scored under its policy, too. Raises `ValueError` where this is not a run's
    folder, where there is nothing to show, and for a checkpoint without stored rollouts to score.
    """
    folder = RunFolder(Path(path))
    config = saved_config(folder)
    subtitle = f"{config.agent.name} on {task_name(config)}, {config.policy.model}"
    there = stored_iterations(folder.path)
    if there:
        wanted = chosen(there, iterations)
        first = read_rollout(folder.path, wanted[0])
        kept = spaced(wanted, max(1, limit // max(len(first), 1)))
        tokenizer = tokenizer_for(config.policy, build_task(config.task))
        later = None if checkpoint is None else later_policy(path, checkpoint, len(tokenizer))
        pieces, stored = Pieces(tokenizer), (read_rollout(folder.path, iteration) for iteration in kept)
        completions = [shown for one in stored for shown in of_rollout(one, pieces, later)]
        subtitle += "" if later is None else f"; the later policy is that of iteration {later.iteration}"
        return Reading(completions, subtitle, left_out(len(kept), len(wanted)))
    if checkpoint is not None:
        raise ValueError(f"checkpoint={checkpoint} needs stored rollouts to score: train with logging.rollouts=true")
    if not folder.completions.is_file():
        raise ValueError(f"{folder.path} has neither stored rollouts nor {folder.completions.name}: nothing to show")
    records = list(of_lines(folder.completions))
    if not records:
        raise ValueError(f"{folder.completions} holds no completion yet")
    wanted = chosen(sorted({record.iteration for record in records}), iterations)
    records = [record for record in records if record.iteration in set(wanted)]
    kept = spaced(wanted, max(1, limit * len(wanted) // len(records)))
    completions = [record for record in records if record.iteration in set(kept)]
    return Reading(completions, subtitle, " ".join(filter(None, (NO_ROLLOUTS, left_out(len(kept), len(wanted))))))


def chosen(there: Sequence[int], iterations: Sequence[int] | None) -> list[int]:
    """All that are there, or `iterations`. Raises `ValueError` where one of these is not there, or none is given."""
    if iterations is None:
        return list(there)
    if not iterations or not set(iterations) <= set(there):
        of = f"{there[0]} to {there[-1]}" + (f", {len(there)} of them" if len(there) <= there[-1] - there[0] else "")
        raise ValueError(f"iterations must be some of {of}, got {list(iterations)}")
    return sorted(set(iterations))


def spaced(iterations: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, evenly spaced, the first and the last among them.

    >>> spaced([1, 2, 3, 4, 5], 3), spaced([1, 2, 3], 1)
    ([1, 3, 5], [3])
    """
    if len(iterations) <= most:
        return list(iterations)
    if most == 1:
        return [iterations[-1]]
    return [iterations[round(i * (len(iterations) - 1) / (most - 1))] for i in range(most)]


def left_out(kept: int, there: int) -> str:
    """What a person should know of what is not there."""
    return "" if kept == there else f"{kept} of {there} iterations, evenly spaced: limit=... shows more."


def task_name(config: TrainConfig) -> str:
    """The task as its settings name it."""
    return config.task if isinstance(config.task, str) else str(config.task.get("_target_", "?")).rsplit(".", 1)[-1]


def of_lines(path: Path) -> Iterator[Shown]:
    """The completions of `completions.jsonl`; a last line that a crash left unfinished is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield of_line(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not a completion ({error!r})") from error


def of_line(record: dict[str, Any]) -> Shown:
    """A line of `completions.jsonl`."""
    names = ("iteration", "problem", "episode", "prompt", "completion", "finish_reason", "reward", "valid", "parts")
    return Shown(**{name: record[name] for name in names}, reason=record.get("reason") or "")


def of_rollout(stored: Stored, pieces: Pieces, later: Later | None = None) -> Iterator[Shown]:
    """The completions of an iteration, group by group."""
    rollout = stored.rollout
    now = None if later is None else later.logprob(rollout) - rollout.sampled_logprob
    for row in torch.argsort(rollout.problem, stable=True).tolist():
        sample, verdict = stored.samples[row], stored.verdicts[row]
        yield Shown(
            iteration=stored.iteration,
            problem=int(rollout.problem[row]),
            episode=int(rollout.episode[row]),
            prompt=sample.prompt,
            completion=sample.completion,
            finish_reason=sample.finish_reason,
            reward=float(rollout.returns[row]),
            valid=bool(rollout.valid[row]),
            parts={name: float(score) for name, score in verdict.parts.items()},
            question=question(sample),
            reason=verdict.reason,
            part_reasons={name: str(score.info.get("reason", "")) for name, score in verdict.parts.items()},
            tokens=token_numbers(stored, row, pieces, now),
        )


def question(sample: Sample) -> str:
    """What the user of a chat asked last in the prompt; what came later is the conversation's."""
    asked = (message["content"] for message in reversed(sample.messages) if message["role"] == "user")
    return next((text for text in asked if text in sample.prompt), "")


def token_numbers(stored: Stored, row: int, pieces: Pieces, now: Tensor | None = None) -> TokenNumbers:
    """What sampler and update knew about the tokens of a row; `now`: log-ratio of a later policy."""
    rollout = stored.rollout
    first, length = int(rollout.prompt_length[row]), int(rollout.length[row])
    count = length - first
    mask = rollout.mask[row, :count]
    known: dict[str, Tensor | None] = {
        "logprob": rollout.sampled_logprob[row],
        "entropy": None if rollout.entropy is None else rollout.entropy[row],
        "advantage": None if stored.advantage is None else stored.advantage[row].expand(rollout.mask.shape[1]),
        "log_ratio": stored.ratio[row].log(),
        "log_ratio_now": None if now is None else now[row],
        "value": None if rollout.value is None else rollout.value[row],
        "reference": None if rollout.reference_logprob is None else rollout.reference_logprob[row],
    }
    texts, special = pieces.of(rollout.tokens[row, first:length].tolist())
    return TokenNumbers(
        pieces=texts,
        special=special,
        injected=~mask.numpy(),
        clipped=np.where(mask.numpy(), stored.clipped[row, :count].numpy(), 0),
        quantities={
            name: torch.where(mask, x[:count].float(), torch.nan).numpy() for name, x in known.items() if x is not None
        },
    )
