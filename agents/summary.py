"""The end of a run: examine, save, draw, tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from agents.collect import Collected
from agents.doctor import Finding, History, Setting, examine, lines_of
from agents.evaluate import Examination
from agents.metrics import read_metrics
from agents.policy.hardware import peak_memory_gb
from agents.proxy import draw_proxy_and_truth, tell_truth, truth_summary, watched_parts
from agents.report import draw_curves
from agents.run import MISMATCH_LIMIT, Run
from textenv import Ended


def finish(run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """Examine, save, draw, and tell."""
    after = run.examine(samples=run.config.evaluation.samples)
    run.save()
    run.folder.write_held_out(after.by_problem())
    records = read_metrics(run.folder.metrics)
    watched = watched_parts(run.config.reward)
    summary = summarize(run, after) | ({"watched": truth_summary(records, watched)} if watched else {})
    if records:
        records[-1] |= after.metrics()
    findings = examine(History([baseline(run), *records], doctor_setting(run)))
    summary["findings"] = [asdict(finding) for finding in findings]
    run.folder.write_summary(summary)
    if watched:
        draw_proxy_and_truth(records, watched, run.folder.proxy_and_truth, title=run.folder.path.name)
    draw_curves({run.config.agent.name: [baseline(run), *records]}, run.folder.curves, title=run.folder.path.name)
    tell(run, summary, after, findings, say)
    return summary


def baseline(run: Run) -> dict[str, float]:
    """The record of iteration 0, for the curves."""
    return {"iteration": 0, "num_tokens": 0, "time/train_seconds": 0.0, **run.counters.before}


def doctor_setting(run: Run) -> Setting:
    """What the doctor has to know of this run."""
    return Setting.of(
        run.config,
        num_problems=min(run.config.evaluation.problems, run.envs.test.num_problems),
        mismatch_limit=MISMATCH_LIMIT[run.policy.model.weight.dtype],
    )


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
    """Language models in memory: policy, reference, separate critic; under an adapter they share one."""
    reference = run.agent.reference
    models = (run.policy.model, run.policy.critic_model, None if reference is None else reference.model)
    return len({id(model.weight) for model in models if model is not None})


def tell(
    run: Run, summary: dict[str, Any], after: Examination, findings: Sequence[Finding], say: Callable[[str], None]
) -> None:
    """What a person wants to know at the end."""
    say(f"\nHeld-out accuracy: {summary['accuracy']['before']:.2f} before, {summary['accuracy']['after']:.2f} after")
    for name, now in summary["after"].items():
        if name in summary["before"] and name != "eval/accuracy":
            say(f"  {name.removeprefix('eval/')}: {summary['before'][name]:.2f} -> {now:.2f}")
    say(
        f"{summary['iterations']} iterations, {summary['tokens']} tokens, {summary['seconds']:.0f} s of training, "
        f"{summary['peak_memory_gb']:.1f} GB at most\n"
    )
    for line in tell_truth(summary.get("watched", {})):
        say(line)
    for ended in after.greedy.ended[:3]:
        say(f"  {question(ended)!r}\n    -> {ended.sample.completion!r}  (score {ended.verdict.value:g})")
    if findings:
        say("\nWhat the numbers say (python -m agents.doctor run=...):")
    for line in lines_of(findings):
        say(line)
    say(f"\nEverything lies in {run.folder.path}: summary.json, curves.png, metrics.jsonl, completions.jsonl,")
    say("checkpoints, tensorboard. Next:")
    say(f"  python -m agents.chat run={run.folder.path}")
    say(f"  python -m agents.export run={run.folder.path} to=my-model")


def shown_sample(collected: Collected) -> tuple[str, str, float]:
    """A completion to watch: the first of the rollout."""
    ended = collected.ended[0]
    return question(ended), ended.sample.completion, float(collected.rollout.returns[0])


def question(ended: Ended) -> str:
    """What was asked, without the frame of a chat."""
    return ended.sample.messages[-1]["content"] if ended.sample.messages else ended.sample.prompt
