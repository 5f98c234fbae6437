"""A run as it goes on: environments, policy, agent, counters; one iteration, one checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import checkpoint
from agents.collect import Collected, collect
from agents.config import TrainConfig
from agents.dynamic_sampling import outcome_without, refilled, sampling_metrics
from agents.evaluate import Examination, examine
from agents.fingerprint import fingerprint, short_hash
from agents.memory import free_bytes
from agents.metrics import truncate_after
from agents.observe import rollout_metrics
from agents.policy import Policy
from agents.policy.hardware import has_fast_bfloat16, peak_memory_gb, pick_device, repeat_exactly
from agents.policy.heap import Heap, keep_freed_memory
from agents.preferences import prepare_preferences
from agents.randomness import EXAMINATION, ITERATION, key_global_generators
from agents.recording import Recording
from agents.resume import continued, identity, remember
from agents.run_folder import RunFolder, default_name
from agents.setup import (
    Agent,
    Environments,
    build_agent,
    build_environments,
    build_policy,
    check_adapter,
    check_context,
    fit_into_memory,
    tokenizer_of,
)
from agents.stored import forget_after, write_rollout

MISMATCH_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Mean |difference| of the sampler's and the update's log-probabilities (nats) at which a run refuses to go on."""


class SamplerMismatch(RuntimeError):
    """Acting and training disagree about the same tokens by more than their number format explains."""


@dataclass
class Counters:
    """How far a run has come."""

    iteration: int = 0
    num_tokens: int = 0
    """Policy tokens generated for training."""
    num_episodes: int = 0
    """Also where in the endless stream of problems the next one stands, times the group size."""
    train_seconds: float = 0.0
    """Collecting and updating; evaluations, checkpoints and start-up are not in it."""
    before: dict[str, float] = field(default_factory=dict)
    """Held-out metrics of the untrained policy."""
    accuracy: float | None = None
    """Of this iteration's policy on held-out problems; None where it was not examined."""


class Run:
    """Everything that a run holds while it goes on."""

    def __init__(self, config: TrainConfig, folder: RunFolder, envs: Environments, policy: Policy) -> None:
        self.config, self.folder, self.envs, self.policy = config, folder, envs, policy
        self.made_of = fingerprint(envs.train.task, envs.train.tokenizer, policy.model)
        self.agent: Agent = build_agent(config, policy)
        self.counters = Counters()
        self.heap = Heap()
        self.on_round: Callable[[str], None] | None = None
        """Told of the rounds of dynamic sampling, which can make an iteration long."""
        policy.reset(seed=config.seed)

    def iterate(self) -> tuple[dict[str, float], Collected]:
        """One iteration: collect, learn, count, and store the rollout where that is asked for.

        Raises `FloatingPointError` where a loss is not finite, with the state and the rollout saved in `failure/`.
        """
        key_global_generators(self.config.seed, self.counters.iteration, ITERATION)
        self.counters.accuracy = None
        started = time.perf_counter()
        collected = self._collect()
        recording = self._record(collected) if self.config.logging.rollouts else None
        acted = time.perf_counter()
        generated = collected.everything
        try:
            metrics = rollout_metrics(generated) | self.agent.update(collected.rollout)
        except FloatingPointError as error:
            where = self._save_failure(recording or self._record(collected, acted=False))
            raise FloatingPointError(f"{error}; the state and the rollout are in {where}") from error
        if self._rounds:
            metrics |= sampling_metrics(collected)
        self.heap.settle()
        done = time.perf_counter()
        check_sampler(metrics.get("sampling/logprob_difference/mean", 0.0), self.policy.model.weight.dtype)
        c = self.counters
        num_tokens = int(generated.rollout.mask.sum())
        c.iteration, c.num_tokens = c.iteration + 1, c.num_tokens + num_tokens
        c.num_episodes, c.train_seconds = c.num_episodes + len(generated.rollout), c.train_seconds + done - started
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
        if recording is not None:
            write_rollout(self.folder.path, recording.stored(c.iteration))
        scoring = self.envs.train.scoring_metrics()
        return metrics | {f"scoring/{name}": number for name, number in scoring.items()}, collected

    @property
    def _rounds(self) -> int:
        """Of dynamic sampling; 0: none."""
        return getattr(self.config.agent, "resample_rounds", 0)

    def _collect(self) -> Collected:
        ignored = getattr(self.config.agent, "resample_ignores", [])
        outcome = outcome_without(ignored, self.envs.train.reward_parts)
        return refilled(
            self._draw, self.config.agent.prompts, rounds=self._rounds, outcome=outcome, on_round=self.on_round
        )

    def _draw(self, first: int, count: int) -> Collected:
        """Completions of this iteration's problems `first` to `first + count`."""
        group_size = self.config.agent.group_size
        first_episode = self.counters.num_episodes + first * group_size
        problems = next_problems(self.envs.train.num_problems, first_episode // group_size, count, self.config.seed)
        return collect(
            self.envs.train,
            self.policy,
            np.repeat(problems, group_size),
            group_ids=np.repeat(np.arange(first, first + count), group_size),
            first_episode=first_episode,
            max_tokens=self.config.env.propose_tokens,
            with_entropy=self.config.logging.entropy,
        )

    def examine(self, *, samples: int = 0) -> Examination:
        """Held-out accuracy now; nothing of what is trained afterwards depends on it."""
        key_global_generators(self.config.seed, self.counters.iteration, EXAMINATION)
        c = self.config.evaluation
        found = examine(
            self.envs.test,
            self.policy,
            num_problems=c.problems,
            samples=samples,
            correct_at=c.correct_at,
            max_tokens=self.config.env.propose_tokens,
        )
        self.counters.accuracy = found.accuracy
        return found

    @property
    def is_best(self) -> bool:
        """Whether this iteration's policy was examined and did better than that of any checkpoint."""
        accuracy = self.counters.accuracy
        if accuracy is None:
            return False
        best = checkpoint.best_metric(self.folder.path)
        return best is None or accuracy > best

    def save(self) -> None:
        """Write a checkpoint of this iteration: everything that the next one depends on.

        Between iterations nothing is pending: every episode that was begun is scored and learned from, the sampler's
        cache is emptied before each rollout, and random numbers are keyed by seed, episode and position.
        """
        state = {"agent": self.agent.state(), "counters": vars(self.counters), "made_of": self.made_of}
        checkpoint.save(
            self.folder.path,
            self.counters.iteration,
            state,
            keep=self.config.keep_checkpoints,
            best=self.counters.accuracy,
        )

    def load(self, say: Callable[[str], None]) -> None:
        """Go back to the newest intact checkpoint, and the logs with it; to the beginning where there was none yet."""
        iteration = 0
        if checkpoint.iterations(self.folder.path) or self.folder.metrics.exists():
            iteration, state = checkpoint.load(self.folder.path, say=say)
            with continued(self.folder.path, iteration, state, self.made_of):
                self.agent.load(state["agent"])
                self.counters = Counters(**state["counters"])
        self.policy.reset()
        for path in (self.folder.metrics, self.folder.completions):
            truncate_after(path, iteration)
        forget_after(self.folder.path, iteration)

    @cached_property
    def _settings(self) -> str:
        return short_hash(identity(self.folder.settings()))

    def _record(self, collected: Collected, *, acted: bool = True) -> Recording:
        return Recording(self.agent, collected, settings=self._settings, acted=acted)

    def _save_failure(self, recording: Recording) -> Path:
        """What is needed to look into an update that failed, as a run's folder of its own: view and replay read it. The
        checkpoints stay as they are."""
        iteration = self.counters.iteration + 1
        self.folder.failure.mkdir(exist_ok=True)
        checkpoint.write_atomically(RunFolder(self.folder.failure).config, self.folder.config.read_bytes())
        write_rollout(self.folder.failure, recording.stored(iteration))
        checkpoint.save(self.folder.failure, iteration, {"agent": self.agent.state(), "counters": vars(self.counters)})
        return self.folder.failure


def check_sampler(difference: float, dtype: torch.dtype) -> None:
    """Raise `SamplerMismatch` where the sampler's log-probabilities are further from the update's, in nats a token on
    average, than the number format explains; also where the difference is no number."""
    limit = MISMATCH_LIMIT[dtype]
    if not difference <= limit:
        raise SamplerMismatch(
            f"the sampler's log-probabilities differ from the update's by {difference:.3g} nats a token on average "
            f"(limit {limit}): the ratios would be noise; try policy.precision=float32"
        )


def next_problems(num_problems: int, start: int, count: int, seed: int) -> np.ndarray:
    """Positions `start` to `start + count` of an endless stream of shuffled passes over all problems.

    >>> sorted(next_problems(4, 4, 4, seed=0).tolist())
    [0, 1, 2, 3]
    """
    first, last = start // num_problems, (start + count - 1) // num_problems
    passes = [np.random.default_rng([seed, p]).permutation(num_problems) for p in range(first, last + 1)]
    return np.concatenate(passes)[start - first * num_problems :][:count]


def fitted(config: TrainConfig, envs: Environments, device: torch.device, say: Callable[[str], None]) -> Environments:
    """The environments, with fewer rows where memory is short; the update's settings are adapted in `config`."""
    num_rows = max(envs.train.num_envs, envs.test.num_envs)
    plan = fit_into_memory(config, envs.train, num_rows, device, free_bytes(device))
    if plan is None or not plan.changes:
        return envs
    say(f"Memory is short; the same results, more slowly, with {', '.join(plan.changes)}.")
    config.agent.optim.microbatch_tokens = plan.microbatch_tokens
    config.agent.optim.checkpoint_activations = plan.checkpoint_activations
    if plan.num_rows == num_rows:
        return envs
    config.env.rows = min(plan.num_rows, config.env.rows or plan.num_rows)
    envs.close()
    return build_environments(config, tokenizer_of(config.policy, say))


def prepare(config: TrainConfig, settings: dict[str, Any], say: Callable[[str], None] = print) -> Run:
    """Build a run, mistakes first: settings and columns are checked before any weight is loaded."""
    torch.set_num_threads(config.threads or torch.get_num_threads())
    keep_freed_memory()
    if config.strict:
        repeat_exactly()
    device = pick_device(config.policy.device)
    if config.resume is None:
        if config.name is not None:
            RunFolder(Path(config.runs) / config.name).check_free()
        if config.preparation is not None:
            prepare_preferences(config, say)
    envs = build_environments(config, tokenizer_of(config.policy, say))
    outcome_without(getattr(config.agent, "resample_ignores", []), envs.train.reward_parts)
    check_context(config.policy, envs.train)
    check_adapter(config.policy)
    envs = fitted(config, envs, device, say)
    name = config.name or default_name(config.agent.name, envs.train.task.name, config.seed)
    folder = RunFolder(Path(config.resume) if config.resume is not None else Path(config.runs) / name)
    if config.resume is None:
        folder.check_free()
    if device.type == "cpu" and config.policy.precision == "auto" and not has_fast_bfloat16(device):
        say("This CPU has no bfloat16 instructions: float32 is used, which takes about three times as long.")
    run = Run(config, folder, envs, build_policy(config, len(envs.train.tokenizer), say))
    if config.resume is None:
        folder.create(settings)
    else:
        run.load(say)
        say(f"Continuing {folder.path} after iteration {run.counters.iteration}")
        for change in remember(folder, settings, run.counters.iteration):
            say(f"Changed from here on: {change}")
    return run
