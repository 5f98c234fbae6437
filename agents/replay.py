"""Look at a run's stored rollouts, score them by another reward, or compare losses on one of them.

    python -m agents.replay run=runs/<name>                      what is stored
    python -m agents.replay run=runs/<name> reward=[math,format]   what another reward would have said
    python -m agents.replay run=runs/<name> loss=[grpo,ppo]      gradients of several losses on the same batch

Rollouts are stored by runs with `logging.rollouts=true` (`agents.stored`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from agents import checkpoint
from agents.any_text import json_line, print_any_text
from agents.checkpoint import write_atomically
from agents.comparison import LossReport, compare_losses, named_agent
from agents.config import TrainConfig, register
from agents.losses import masked_mean
from agents.require import require, require_run
from agents.rescoring import Rescored, agreement, most_changed, rescore
from agents.run_folder import RunFolder
from agents.saved import CONF, chosen_iteration, saved_config, tokenizer_for
from agents.setup import build_reward, build_task
from agents.stored import Stored, read_rollout, read_rollouts, stored_iterations
from rewards.errors import RewardError
from textenv.ended import total

register()


@dataclass
class ReplayConfig:
    """Settings of `python -m agents.replay`."""

    run: str | None = None
    """Folder of a run that was trained with logging.rollouts=true."""
    iteration: int | None = None
    """Which one; null: all of them, or with `loss` the latest whose weights are there."""
    reward: Any = None
    """Score the stored completions by this reward."""
    loss: list[str] = field(default_factory=list)
    """Compare these losses on a stored iteration."""
    checkpoint: str = "acted"
    """With `loss`: whose weights it is computed with: `acted`, `last`, `best`, `untrained`, or an iteration."""
    device: str = "auto"
    correct_at: float | None = None
    """A completion is right from this score on; null: as in the run's evaluation."""
    examples: int = 5
    """Completions to show whose score changed most."""
    output: str | None = None
    """With `reward`: a JSON Lines file for every completion with both scores."""

    def __post_init__(self) -> None:
        require_run(self.run)
        require(self.reward is None or not self.loss, "one of reward and loss must be given, got both")
        weighed = self.checkpoint == "acted" or bool(self.loss)
        require(
            weighed, f"checkpoint={self.checkpoint} needs a loss, which it computes with those weights: loss=[grpo]"
        )
        require(self.examples >= 0, f"examples must be at least 0, got {self.examples}")
        require(self.output is None or self.reward is not None, f"output={self.output} needs a reward: reward=math")
        ok = self.output is None or not Path(self.output).exists()
        require(ok, f"output={self.output} is there already and is never overwritten: choose another name")


ConfigStore.instance().store(name="replay_schema", node=ReplayConfig)


def replay(config: ReplayConfig) -> None:
    """Do what `config` asks for and print what came of it."""
    folder = RunFolder(Path(str(config.run)))
    trained = saved_config(folder)
    if config.loss:
        print_losses(config, folder, trained)
    elif config.reward is not None:
        print_rescored(config, trained, chosen_rollouts(config, folder))
    else:
        print(table([overview(one) for one in chosen_rollouts(config, folder)]))


def chosen_rollouts(config: ReplayConfig, folder: RunFolder) -> Iterable[Stored]:
    """That of the iteration, or all."""
    if config.iteration is None:
        return read_rollouts(folder.path)
    return [read_rollout(folder.path, config.iteration)]


def overview(stored: Stored) -> dict[str, Any]:
    """A stored iteration in a line."""
    rollout = stored.rollout
    returns, ratio = rollout.returns[rollout.valid], stored.ratio[~stored.ratio.isnan()]
    seen = bool(len(ratio))
    return {
        "iteration": stored.iteration,
        "completions": len(stored),
        "prompts": len(rollout.problem.unique()),
        "tokens": int(rollout.mask.sum()),
        "reward": float(returns.mean()) if len(returns) else math.nan,
        "std": float(returns.std(correction=0)) if len(returns) else math.nan,
        "invalid": len(stored) - int(rollout.valid.sum()),
        "-log p": float(masked_mean(-rollout.sampled_logprob, rollout.trainable)),
        "ratio from": float(ratio.min()) if seen else math.nan,
        "to": float(ratio.max()) if seen else math.nan,
        "clipped": float((stored.clipped != 0).sum() / max(len(ratio), 1)),
        "weights": stored.weights,
    }


def print_rescored(config: ReplayConfig, trained: TrainConfig, stored: Iterable[Stored]) -> None:
    """The comparison of two rewards, and examples."""
    correct_at = trained.evaluation.correct_at if config.correct_at is None else config.correct_at
    rescored = rescore(stored, build_reward(config.reward), trained.env)
    found = agreement(rescored, correct_at)
    print(f"{found.completions} completions, scored by the run and by {', '.join(config.reward)}")
    print(f"  mean                  {found.mean_before:.3f} -> {found.mean_after:.3f}")
    print(f"  correlation           {shown(found.correlation)}")
    print(f"  within a prompt's     {shown(found.correlation_in_groups)}")
    print(f"  verdicts that change  {found.now_right + found.now_wrong} at {correct_at:g}", end="")
    print(f" ({found.now_right} now right, {found.now_wrong} now wrong)")
    if found.only_before or found.only_after:
        print(f"  scored by one only    {found.only_before} by the run, {found.only_after} by the new reward")
    for one in most_changed(rescored, correct_at, config.examples):
        print(f"\n  iteration {one.iteration}, episode {one.episode}: {score(one.before)} -> {score(one.after)}")
        print(f"    {one.sample.prompt!r:.300}\n    -> {one.sample.completion!r:.300}")
        print("".join(f"    {reason}\n" for reason in (one.before.reason, one.after.reason) if reason), end="")
    if config.output is not None:
        write_atomically(config.output, "".join(json_line(line(one)) for one in rescored))
        print(f"\nWrote {config.output}")


def line(one: Rescored) -> dict[str, Any]:
    """A completion with both scores, for programs."""
    return {
        "iteration": one.iteration,
        "episode": one.episode,
        "prompt": one.sample.prompt,
        "completion": one.sample.completion,
        "before": total(one.before) if one.before.valid else None,
        "after": total(one.after) if one.after.valid else None,
        "parts": {name: float(part) for name, part in one.after.parts.items()},
        "reason": one.after.reason,
    }


def score(verdict: Any) -> str:
    """A verdict in a word."""
    return f"{total(verdict):g}" if verdict.valid else "no score"


def print_losses(config: ReplayConfig, folder: RunFolder, trained: TrainConfig) -> None:
    """The losses on one iteration, a line each."""
    agents = {f"{trained.agent.name} (this run)": trained.agent}
    agents |= {words: named_agent(words) for words in config.loss}
    iteration, which = chosen_weights(config, folder)
    stored = read_rollout(folder.path, iteration)
    state = None if which is None else checkpoint.load(folder.path, which)[1]["agent"]
    trained = replace(trained, policy=replace(trained.policy, device=config.device))
    tokenizer = tokenizer_for(trained.policy, build_task(trained.task))
    whose = "the untrained policy" if which is None else f"the policy after iteration {which}"
    print(f"The {len(stored)} completions of iteration {iteration} under {whose}", end="")
    print(" (which wrote them)" if (which or 0) == iteration - 1 else f" (that after {iteration - 1} wrote them)")
    torch.set_num_threads(trained.threads or torch.get_num_threads())
    reports = compare_losses(
        trained,
        stored.rollout,
        agents,
        vocabulary=len(tokenizer),
        state=state,
        expected_weights=(stored.weights or None) if (which or 0) == iteration - 1 else None,
    )
    print(table([loss_row(report, reports) for report in reports]))


def loss_row(report: LossReport, reports: Sequence[LossReport]) -> dict[str, Any]:
    """A loss as a line of the table."""
    numbered = {f"cos {number}": cosine for number, cosine in enumerate(report.cosines, 1)}
    row = {"": reports.index(report) + 1, "loss": report.name, "value": report.loss, "gradient norm": report.norm}
    return row | {"clipped": report.clipped, "mean ratio": report.ratio} | numbered


def chosen_weights(config: ReplayConfig, folder: RunFolder) -> tuple[int, int | None]:
    """The stored iteration and the checkpoint's, None for the untrained policy.

    Raises `ValueError` where the weights that acted are wanted and gone.
    """
    stored, saved = stored_iterations(folder.path), checkpoint.iterations(folder.path)
    require(bool(stored), f"{folder.path} has no stored rollouts: train with logging.rollouts=true")
    if config.checkpoint != "acted":
        iteration = stored[-1] if config.iteration is None else config.iteration
        if config.checkpoint == "untrained":
            return iteration, None
        which = chosen_iteration(folder, config.checkpoint)
        return iteration, saved[-1] if which is None and saved else which
    possible = [i for i in stored if i == 1 or i - 1 in saved]
    iteration = config.iteration if config.iteration is not None else possible[-1] if possible else stored[-1]
    require(
        iteration in possible or iteration not in stored,
        f"the weights that acted in iteration {iteration} have no checkpoint (there: {', '.join(map(str, saved))}): "
        "choose checkpoint=last, best, untrained or one of these, or an iteration after one of these",
    )
    return iteration, iteration - 1 if iteration - 1 in saved else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows under their names, aligned."""
    cells = [list(rows[0]), *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    words = [isinstance(value, str) for value in rows[0].values()]
    return "\n".join(
        "  ".join(
            text.ljust(w) if word else text.rjust(w) for text, w, word in zip(row, widths, words, strict=True)
        ).rstrip()
        for row in cells
    )


def shown(value: Any) -> str:
    """A number short enough for a table.

    >>> shown(3), shown(0.123456), shown(float("nan")), shown("grpo")
    ('3', '0.123', '-', 'grpo')
    """
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"


@hydra.main(version_base="1.3", config_path=CONF, config_name="replay")
def main(composed: DictConfig) -> None:
    """Compose, replay; mistakes end in one line."""
    disable_progress_bar()
    print_any_text()
    try:
        config: Any = OmegaConf.to_object(composed)
        replay(config)
    except (ValueError, OSError, RewardError, FloatingPointError, OmegaConfBaseException) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
