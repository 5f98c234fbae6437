"""Accuracy on held-out problems and unbiased pass@k.

    python -m agents.evaluate run=runs/<name>            the policy of a run, on its own test split
    python -m agents.evaluate task=sums20 policy=smollm2 samples=8

Completions come from the same `collect` that training uses.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.checkpoint import write_atomically
from agents.collect import Collected, collect
from agents.config import PolicyConfig, TrainConfig
from agents.grpo import GRPOConfig
from agents.policy import Policy, Sampling
from agents.require import require
from agents.saved import CONF, load_policy, open_run, tokenizer_for
from agents.setup import build_env, build_reward, build_task, own_reward
from textenv import TextVectorEnv

GREEDY = Sampling(temperature=0)
NORMAL_95 = 1.959964
"""Standard deviations to either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What an evaluation found."""

    accuracy: float
    """Share of problems answered correctly by the greedy completion."""
    mean_length: float
    """Policy tokens of the greedy completions."""
    greedy: Collected
    sampled_accuracy: float | None = None
    """Share of sampled completions that are correct."""
    pass_at: dict[int, float] = field(default_factory=dict)
    """k -> unbiased pass@k."""
    correct: tuple[bool, ...] = ()
    """Of each problem, whether the greedy completion is right."""
    samples: int = 0
    """Sampled completions a problem ..."""
    num_correct: tuple[int, ...] = ()
    """... and how many of these are right, of each problem."""

    def metrics(self) -> dict[str, float]:
        """For the logs: `eval/...`."""
        out = {"eval/accuracy": self.accuracy, "eval/mean_length": self.mean_length}
        if self.sampled_accuracy is not None:
            out["eval/sampled_accuracy"] = self.sampled_accuracy
        return out | {f"eval/pass@{k}": value for k, value in self.pass_at.items()}

    def by_problem(self) -> dict[str, Any]:
        """For `held_out.json`: what means are made of, problem by problem in the order of the split."""
        rollout = self.greedy.rollout
        scores = rollout.returns.tolist()
        return {
            "score": [score if valid else None for score, valid in zip(scores, rollout.valid.tolist(), strict=True)],
            "correct": [int(right) for right in self.correct],
            "samples": self.samples,
            "num_correct": list(self.num_correct),
        }


def examine(
    env: TextVectorEnv,
    policy: Policy,
    *,
    num_problems: int,
    samples: int = 0,
    correct_at: float = 1.0,
    max_tokens: int = 32,
) -> Examination:
    """Greedy accuracy on the first `num_problems` of the environment's split, and of `samples` draws a problem.

    Samples are keyed by episode numbers of their own, so that they repeat neither training's draws nor each other.
    """
    num_problems = min(num_problems, env.num_problems)
    problems = np.arange(num_problems)
    greedy = collect(env, policy, problems, sampling=GREEDY, max_tokens=max_tokens)
    correct = verdicts(greedy, correct_at)
    lengths = greedy.rollout.response_length.float()
    if not samples:
        return Examination(float(correct.mean()), float(lengths.mean()), greedy, correct=tuple(correct.tolist()))
    hits = np.zeros(num_problems, np.int64)
    for round_ in range(samples):
        first = -(round_ + 1) * num_problems  # below every episode of training
        drawn = collect(env, policy, problems, first_episode=first, max_tokens=max_tokens)
        hits += verdicts(drawn, correct_at)
    pass_at = {k: float(np.mean([pass_at_k(samples, int(c), k) for c in hits])) for k in powers_of_two(samples)}
    return Examination(
        float(correct.mean()),
        float(lengths.mean()),
        greedy,
        sampled_accuracy=float(hits.sum() / (samples * num_problems)),
        pass_at=pass_at,
        correct=tuple(correct.tolist()),
        samples=samples,
        num_correct=tuple(hits.tolist()),
    )


def verdicts(collected: Collected, correct_at: float) -> np.ndarray:
    """Which episodes were right; one that could not be graded counts as wrong."""
    rollout = collected.rollout
    return (rollout.valid & (rollout.returns >= correct_at - 1e-6)).numpy()


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The probability that at least one of `k` draws without replacement from `samples` is among the `correct`.

    Unbiased; arXiv 2107.03374, equation 1. Raises `ValueError` unless 1 <= k <= samples and 0 <= correct <= samples.

    >>> pass_at_k(4, 1, 4), pass_at_k(4, 1, 1)
    (1.0, 0.25)
    """
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise ValueError(
            f"pass@k needs 1 <= k <= samples and 0 <= correct <= samples, got {k=}, {samples=}, {correct=}"
        )
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`.

    >>> powers_of_two(6)
    [1, 2, 4]
    """
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def wilson(share: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share seen in `total` independent trials (JASA 22, 1927).

    >>> [round(bound, 3) for bound in wilson(0.5, 100)], [round(bound, 3) for bound in wilson(0.0, 100)]
    ([0.404, 0.596], [0.0, 0.037])
    """
    if total < 1 or not 0 <= share <= 1:
        raise ValueError(f"an interval needs a share from 0 to 1 of at least one trial, got {share} of {total}")
    z2 = NORMAL_95**2 / total
    centre = (share + z2 / 2) / (1 + z2)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass
class EvaluateConfig:
    """Settings of `python -m agents.evaluate`. Null means: as in training, or for an untrained model its default."""

    run: str | None = None
    """Folder of a run."""
    checkpoint: str = "last"
    """`last`, `best` on held-out problems, or an iteration."""
    policy: PolicyConfig | None = None
    """Instead of a run: an untrained model."""
    task: Any = None
    """Another one than the run was trained on."""
    reward: Any = None
    """For a task that has none of its own."""
    device: str = "auto"
    split: str = "test"
    problems: int | None = None
    """At most as many as the split has."""
    samples: int = 4
    """Sampled completions a problem; 0: greedy only."""
    temperature: float | None = None
    """Of the samples."""
    max_new_tokens: int | None = None
    system_prompt: str | None = None
    prompt_template: str | None = None
    correct_at: float | None = None
    """A completion counts as correct from this score on."""
    seed: int = 0
    output: str | None = None
    """A file, or a folder for `evaluation.json`; null: only printed."""

    def __post_init__(self) -> None:
        require(
            (self.run is None) != (self.policy is None),
            "one of run and policy must be given: run=runs/NAME, or policy=smollm2 task=... for an untrained model",
        )
        require(self.run is not None or self.task is not None, "task must be given where there is no run: task=sums20")
        require(self.problems is None or self.problems >= 1, f"problems must be at least 1, got {self.problems}")
        require(self.samples >= 0, f"samples must be at least 0, got {self.samples}")
        require(
            self.temperature is None or self.temperature > 0, f"temperature must be above 0, got {self.temperature}"
        )
        require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")


ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)


def evaluate(config: EvaluateConfig) -> tuple[dict[str, Any], Examination]:
    """Build what `config` describes and examine it; what `evaluation.json` holds, and the completions behind it."""
    saved = None if config.run is None else open_run(config.run, config.checkpoint)
    trained = saved.config if saved else TrainConfig(GRPOConfig(), config.task, policy=config.policy or PolicyConfig())
    own_task = build_task(trained.task)
    tokenizer = tokenizer_for(trained.policy, own_task)
    task = build_task(config.task) if saved and config.task is not None else own_task
    reward = own_reward(task, build_reward(trained.reward if config.reward is None else config.reward))
    names = ("max_new_tokens", "system_prompt", "prompt_template")
    shown = replace(trained.env, **{n: x for n in names if (x := getattr(config, n)) is not None}, rows=None)
    problems = min(config.problems or trained.evaluation.problems, len(task.split(config.split)))
    correct_at = trained.evaluation.correct_at if config.correct_at is None else config.correct_at
    with closing(build_env(shown, task, reward, tokenizer, problems, config.split)) as env:
        model = trained.policy
        policy = load_policy(
            model if config.temperature is None else replace(model, temperature=config.temperature),
            len(tokenizer),
            weights=saved.weights if saved else None,
            device=config.device,
            seed=trained.seed,
        )
        policy.reset(seed=config.seed)
        print(f"Examining {config.run or model.model} on {problems} problems of {task.name} ({config.split}) ...")
        found = examine(
            env,
            policy,
            num_problems=problems,
            samples=config.samples,
            correct_at=correct_at,
            max_tokens=shown.propose_tokens,
        )
    source = {"run": config.run, "iteration": saved.iteration if saved else None, "model": model.model}
    setting = {"task": task.name, "split": config.split, "temperature": policy.sampling.temperature}
    return {**source, **setting, "seed": config.seed, "samples": config.samples, **intervals(found, problems)}, found


def intervals(found: Examination, num_problems: int) -> dict[str, Any]:
    """Every share with its 95 % interval over problems.

    Samples of one problem are alike, so they count as one trial: for a mean over samples the interval is too wide
    rather than too narrow.
    """
    shares = {name: share for name, share in found.metrics().items() if name != "eval/mean_length"}
    return {
        "num_problems": num_problems,
        "mean_length": found.mean_length,
        **{name.removeprefix("eval/"): share for name, share in shares.items()},
        "interval_95": {name.removeprefix("eval/"): wilson(share, num_problems) for name, share in shares.items()},
    }


def tell(result: dict[str, Any], found: Examination) -> None:
    """For people: every share, and three completions."""
    names = {"accuracy": "greedy accuracy", "sampled_accuracy": f"sampled accuracy, t={result['temperature']:g}"}
    for name, (low, high) in result["interval_95"].items():
        print(f"  {names.get(name, name):28} {result[name]:.3f}   95 % interval {low:.3f} to {high:.3f}")
    print(f"  {'tokens a greedy completion':28} {result['mean_length']:.1f}\n")
    for ended in found.greedy.ended[:3]:
        question = ended.sample.messages[-1]["content"] if ended.sample.messages else ended.sample.prompt
        print(f"  {question!r}\n    -> {ended.sample.completion!r}  (score {ended.verdict.value:g})")


def output_path(output: str | None) -> Path | None:
    """The file to write. Raises `ValueError` when it is there already."""
    if output is None:
        return None
    path = Path(output) if output.endswith(".json") else Path(output) / "evaluation.json"
    require(not path.exists(), f"output={path} is there already and is never overwritten: choose another name")
    return path


@hydra.main(version_base="1.3", config_path=CONF, config_name="evaluate")
def main(composed: DictConfig) -> None:
    """Compose, examine, tell."""
    try:
        config: Any = OmegaConf.to_object(composed)
        path = output_path(config.output)
        result, found = evaluate(config)
    except (ValueError, OmegaConfBaseException) as error:
        sys.exit(f"error: {error}")
    tell(result, found)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(result, indent=2) + "\n")
        print(f"\nWrote {path}")


if __name__ == "__main__":
    main()
