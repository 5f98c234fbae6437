"""The training loop: act, learn, log, save.

python -m agents.train agent=grpo task=arithmetic policy=smollm2
python -m agents.train --help
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from agents import checkpoint
from agents.collect import Collected, collect
from agents.config import TrainConfig, from_settings, register, typed
from agents.evaluate import Examination, examine
from agents.grpo import GRPO
from agents.interrupt import Interrupt
from agents.metrics import JsonLines, TensorBoard, WeightsAndBiases, read_metrics, truncate_after
from agents.observe import completion_lines, rollout_metrics
from agents.policy import Policy
from agents.policy.hardware import has_fast_bfloat16, peak_memory_gb, pick_device
from agents.ppo import PPO
from agents.progress import Progress
from agents.report import draw_curves
from agents.resume import resumed
from agents.run_folder import RunFolder, default_name
from agents.setup import Environments, build_agent, build_environments, build_policy, tokenizer_of

CONF = str(Path(__file__).resolve().parents[1] / "conf")
MEMORY_SETTINGS = (
    "agent.optim.microbatch_tokens, agent.prompts, agent.group_size, env.rows, env.max_new_tokens, or a smaller "
    "policy.model"
)
MISMATCH_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Mean |difference| of the sampler's and the update's log-probabilities (nats) at which a run refuses to go on."""

register()


@dataclass
class Counters:
    """How far a run has come."""

    iteration: int = 0
    num_tokens: int = 0
    """Policy tokens generated for training."""
    num_episodes: int = 0
    train_seconds: float = 0.0
    """Collecting and updating; evaluations, checkpoints and start-up are not in it."""
    before: dict[str, float] = field(default_factory=dict)
    """Held-out metrics of the untrained policy."""


class Run:
    """Everything that a run holds while it goes on."""

    def __init__(self, config: TrainConfig, folder: RunFolder, envs: Environments, policy: Policy) -> None:
        self.config, self.folder, self.envs, self.policy = config, folder, envs, policy
        self.agent: GRPO | PPO = build_agent(config, policy)
        self.counters = Counters()
        policy.reset(seed=config.seed)

    def iterate(self) -> tuple[dict[str, float], Collected]:
        """One iteration: collect, learn, count."""
        started = time.perf_counter()
        collected = self._collect()
        acted = time.perf_counter()
        metrics = rollout_metrics(collected) | self.agent.update(collected.rollout)
        done = time.perf_counter()
        self._check_sampler(metrics)
        c = self.counters
        num_tokens = int(collected.rollout.mask.sum())
        c.iteration, c.num_tokens = c.iteration + 1, c.num_tokens + num_tokens
        c.num_episodes, c.train_seconds = c.num_episodes + len(collected.rollout), c.train_seconds + done - started
        metrics |= {
            "num_tokens": float(c.num_tokens),
            "num_episodes": float(c.num_episodes),
            "tokens_per_second": num_tokens / (done - started),
            "time/collect": acted - started,
            "time/update": done - acted,
            "time/seconds": done - started,
            "time/train_seconds": c.train_seconds,
            "memory/peak_gb": peak_memory_gb(self.policy.device),
        }
        return metrics, collected

    def _collect(self) -> Collected:
        agent = self.config.agent
        problems = next_problems(
            self.envs.train.num_problems, self.counters.iteration * agent.prompts, agent.prompts, self.config.seed
        )
        return collect(
            self.envs.train,
            self.policy,
            np.repeat(problems, agent.group_size),
            group_ids=np.repeat(np.arange(agent.prompts), agent.group_size),
            first_episode=self.counters.iteration * agent.prompts * agent.group_size,
            max_tokens=self.config.env.propose_tokens,
        )

    def _check_sampler(self, metrics: dict[str, float]) -> None:
        difference = metrics.get("sampling/logprob_difference/mean", 0.0)
        limit = MISMATCH_LIMIT[self.policy.model.weight.dtype]
        if difference > limit:
            raise RuntimeError(
                f"the sampler's log-probabilities differ from the update's by {difference:.3g} nats a token on average "
                f"(limit {limit}): the ratios would be noise; try policy.precision=float32"
            )

    def examine(self, *, samples: int = 0) -> Examination:
        """Held-out accuracy now."""
        c = self.config.evaluation
        return examine(
            self.envs.test,
            self.policy,
            num_problems=c.problems,
            samples=samples,
            correct_at=c.correct_at,
            max_tokens=self.config.env.propose_tokens,
        )

    def save(self, accuracy: float | None) -> None:
        """Write a checkpoint of this iteration."""
        state = {"agent": self.agent.state(), "counters": vars(self.counters)}
        checkpoint.save(
            self.folder.path, self.counters.iteration, state, keep=self.config.keep_checkpoints, best=accuracy
        )

    def load(self, say: Callable[[str], None]) -> None:
        """Go back to the newest intact checkpoint, and the logs with it."""
        iteration, state = checkpoint.load(self.folder.path, say=say)
        self.agent.load(state["agent"])
        self.counters = Counters(**state["counters"])
        self.policy.reset()
        for path in (self.folder.metrics, self.folder.completions):
            if path.exists():
                truncate_after(path, iteration)


def next_problems(num_problems: int, start: int, count: int, seed: int) -> np.ndarray:
    """Positions `start` to `start + count` of an endless stream of shuffled passes over all problems.

    >>> sorted(next_problems(4, 4, 4, seed=0).tolist())
    [0, 1, 2, 3]
    """
    first, last = start // num_problems, (start + count - 1) // num_problems
    passes = [np.random.default_rng([seed, p]).permutation(num_problems) for p in range(first, last + 1)]
    return np.concatenate(passes)[start - first * num_problems :][:count]


def train(run: Run, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train to the end, or to Ctrl-C; returns what `summary.json` holds."""
    config, counters = run.config, run.counters
    if not counters.before:
        say(f"Examining the untrained policy on {min(config.evaluation.problems, run.envs.test.num_problems)} problems")
        counters.before = run.examine(samples=config.evaluation.samples).metrics()
        say(f"Held-out accuracy before: {counters.before['eval/accuracy']:.2f}")
        run.save(counters.before["eval/accuracy"])
    logs = open_logs(run)
    title = f"{config.agent.name} on {run.envs.train.task.name}, {config.policy.model}"
    completions = run.folder.completions.open("a") if config.logging.completions else None
    try:
        with (
            Progress(config.iterations, title=title, start=counters.iteration) as progress,
            Interrupt(progress.note) as interrupt,
        ):
            while not finished(run) and not interrupt.requested:
                metrics, collected = run.iterate()
                if completions is not None:
                    completions.writelines(completion_lines(counters.iteration, collected))
                    completions.flush()
                accuracy = None
                if config.evaluation.every and counters.iteration % config.evaluation.every == 0:
                    metrics |= run.examine().metrics()
                    accuracy = metrics["eval/accuracy"]
                for log in logs:
                    log(counters.iteration, metrics)
                progress.update(counters.iteration, metrics, shown_sample(collected))
                if counters.iteration % config.checkpoint_every == 0 and not finished(run):
                    run.save(accuracy)
    finally:
        for log in logs:
            log.close()
        if completions is not None:
            completions.close()
    if not finished(run):
        run.save(None)
        say(f"Stopped after iteration {counters.iteration}. Continue with: resume={run.folder.path}")
        return {}
    return finish(run, say)


def finished(run: Run) -> bool:
    """Whether the iterations, the seconds or the tokens are spent."""
    config, counters = run.config, run.counters
    spent = (
        (counters.iteration, config.iterations),
        (counters.train_seconds, config.max_seconds),
        (counters.num_tokens, config.max_tokens),
    )
    return any(limit is not None and done >= limit for done, limit in spent)


def open_logs(run: Run) -> list[Any]:
    """The writers that the settings ask for."""
    config, folder = run.config, run.folder
    logs: list[Any] = [JsonLines(folder.metrics)]
    if config.logging.tensorboard:
        logs.append(TensorBoard(folder.tensorboard, purge_after=run.counters.iteration or None))
    if config.logging.wandb:
        logs.append(
            WeightsAndBiases(
                folder.path, project=config.logging.wandb_project, name=folder.path.name, config=folder.settings()
            )
        )
    return logs


def shown_sample(collected: Collected) -> tuple[str, str, float]:
    """A completion to watch: the first of the rollout."""
    ended = collected.ended[0]
    question = ended.sample.messages[-1]["content"] if ended.sample.messages else ended.sample.prompt
    return question, ended.sample.completion, float(collected.rollout.returns[0])


def finish(run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """Examine, save, draw, and tell."""
    after = run.examine(samples=run.config.evaluation.samples)
    run.save(after.accuracy)
    summary = summarize(run, after)
    run.folder.write_summary(summary)
    records = read_metrics(run.folder.metrics)
    draw_curves({run.config.agent.name: [baseline(run), *records]}, run.folder.curves, title=run.folder.path.name)
    tell(run, summary, after, say)
    return summary


def baseline(run: Run) -> dict[str, float]:
    """The record of iteration 0, for the curves."""
    return {"iteration": 0, "num_tokens": 0, "time/train_seconds": 0.0, **run.counters.before}


def summarize(run: Run, after: Examination) -> dict[str, Any]:
    """Before and after, and what it took."""
    counters, config = run.counters, run.config
    now = after.metrics()
    return {
        "accuracy": {"before": counters.before["eval/accuracy"], "after": now["eval/accuracy"]},
        "before": counters.before,
        "after": now,
        "num_problems": min(config.evaluation.problems, run.envs.test.num_problems),
        "seconds": counters.train_seconds,
        "iterations": counters.iteration,
        "tokens": counters.num_tokens,
        "episodes": counters.num_episodes,
        "seed": config.seed,
        "peak_memory_gb": peak_memory_gb(run.policy.device),
        "agent": config.agent.name,
        "task": run.envs.train.task.name,
        "model": config.policy.model,
        "models_held": models_held(run),
        "device": str(run.policy.device),
        "precision": str(run.policy.model.weight.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "folder": str(run.folder.path),
    }


def models_held(run: Run) -> int:
    """Language models in memory: policy, reference, separate critic."""
    return 1 + (run.agent.reference is not None) + (run.policy.critic_model is not None)


def tell(run: Run, summary: dict[str, Any], after: Examination, say: Callable[[str], None]) -> None:
    """What a person wants to know at the end."""
    say(f"\nHeld-out accuracy: {summary['accuracy']['before']:.2f} before, {summary['accuracy']['after']:.2f} after")
    for name, now in summary["after"].items():
        if name in summary["before"] and name != "eval/accuracy":
            say(f"  {name.removeprefix('eval/')}: {summary['before'][name]:.2f} -> {now:.2f}")
    say(
        f"{summary['iterations']} iterations, {summary['tokens']} tokens, {summary['seconds']:.0f} s of training, "
        f"{summary['peak_memory_gb']:.1f} GB at most\n"
    )
    for ended in after.greedy.ended[:3]:
        question = ended.sample.messages[-1]["content"] if ended.sample.messages else ended.sample.prompt
        say(f"  {question!r}\n    -> {ended.sample.completion!r}  (score {ended.verdict.value:g})")
    say(f"\nEverything lies in {run.folder.path}: summary.json, curves.png, metrics.jsonl, completions.jsonl,")
    say("checkpoints, tensorboard. Next:")
    say(f"  python -m agents.chat run={run.folder.path}")
    say(f"  python -m agents.export run={run.folder.path} to=my-model")


def prepare(config: TrainConfig, settings: dict[str, Any], say: Callable[[str], None] = print) -> Run:
    """Build a run, mistakes first: settings and columns are checked before any weight is loaded."""
    torch.set_num_threads(config.threads or torch.get_num_threads())
    device = pick_device(config.policy.device)
    envs = build_environments(config, tokenizer_of(config.policy, say))
    if config.resume is not None:
        folder = RunFolder(Path(config.resume))
    else:
        folder = RunFolder(
            Path(config.runs) / (config.name or default_name(config.agent.name, envs.train.task.name, config.seed))
        )
        folder.create(settings)
    if device.type == "cpu" and config.policy.precision == "auto" and not has_fast_bfloat16(device):
        say("This CPU has no bfloat16 instructions: float32 is used, which takes about 4 times as long.")
    run = Run(config, folder, envs, build_policy(config, len(envs.train.tokenizer), say))
    if config.resume is not None:
        run.load(say)
        say(f"Continuing {folder.path} after iteration {run.counters.iteration}")
    return run


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def main(composed: DictConfig) -> None:
    """Compose, prepare, train; settings that cannot work end in one line, not in a traceback."""
    try:
        if composed.resume:
            settings = resumed(composed.resume, HydraConfig.get().overrides.task)
            run = prepare(from_settings(settings), settings)
        else:
            run = prepare(typed(composed), OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        train(run)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        sys.exit(f"error: out of memory ({str(error).splitlines()[0]}). Lower one of {MEMORY_SETTINGS}.")
    finally:
        run.envs.close()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is about memory; torch's allocator on the CPU raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


if __name__ == "__main__":
    main()
