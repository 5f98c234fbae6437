"""The training loop: act, learn, log, save.

python -m agents.train agent=grpo task=arithmetic policy=smollm2
python -m agents.train --help
python -m agents.train ... --explain
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from agents.any_text import print_any_text
from agents.collect import Collected
from agents.config import from_settings, register, typed
from agents.disk import NO_ROOM
from agents.doctor import Watch
from agents.explain import as_setting, explain
from agents.metrics import JsonLines, TensorBoard, WeightsAndBiases, read_metrics
from agents.observe import completion_lines
from agents.progress import Progress
from agents.resume import resumed
from agents.run import Run, SamplerMismatch, prepare
from agents.summary import baseline, doctor_setting, finish, shown_sample
from rewards.errors import RewardError
from rewards.preference.interrupt import Interrupt

CONF = str(Path(__file__).resolve().parents[1] / "conf")
MEMORY_SETTINGS = (
    "agent.optim.microbatch_tokens, agent.prompts, agent.group_size, env.rows, env.max_new_tokens, or a smaller "
    "policy.model"
)

register()


def train(run: Run, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train to the end, or to Ctrl-C; returns what `summary.json` holds."""
    config, counters = run.config, run.counters
    if not counters.before:
        say(f"Examining the untrained policy on {min(config.evaluation.problems, run.envs.test.num_problems)} problems")
        counters.before = run.examine(samples=config.evaluation.samples).metrics()
        say(f"Held-out accuracy before: {counters.before['eval/accuracy']:.2f}")
        run.save()
    logs = open_logs(run)
    watch = Watch(doctor_setting(run), [baseline(run), *read_metrics(run.folder.metrics)])
    title = f"{config.agent.name} on {run.envs.train.task.name}, {config.policy.model}"
    completions = run.folder.completions.open("a", encoding="utf-8") if config.logging.completions else None
    try:
        with (
            Progress(config.iterations, title=title, start=counters.iteration) as progress,
            Interrupt(progress.note) as interrupt,
        ):
            run.on_round = progress.busy
            while not finished(run) and not interrupt.requested:
                metrics, collected = run.iterate()
                if completions is not None:
                    completions.writelines(completion_lines(counters.iteration, collected.everything))
                    completions.flush()
                if config.evaluation.every and counters.iteration % config.evaluation.every == 0:
                    metrics |= run.examine().metrics()
                for log in logs:
                    log(counters.iteration, metrics)
                if metrics["reward/invalid_share"] > 0:
                    progress.note(ungraded(metrics["reward/invalid_share"], collected.everything))
                for line in watch(counters.iteration, metrics):
                    progress.note(line)
                progress.update(counters.iteration, metrics, shown_sample(collected))
                due = counters.iteration % config.checkpoint_every == 0
                if (due or run.is_best) and not finished(run):
                    run.save()
    finally:
        for log in logs:
            log.close()
        if completions is not None:
            completions.close()
    run.save()
    if not finished(run):
        say(f"Stopped after iteration {counters.iteration}. Continue with: resume={run.folder.path}")
        return {}
    return finish(run, say)


def ungraded(share: float, collected: Collected) -> str:
    """What a person should hear about completions whose grader failed."""
    reason = next(ended.verdict.reason for ended in collected.ended if not ended.verdict.valid)
    return f"{share:.0%} of the completions could not be graded and are left out; the first: {reason}"


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


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def _main(composed: DictConfig) -> None:
    """Compose, prepare, train; settings that cannot work end in one line, not in a traceback."""
    try:
        if composed.resume:
            settings: Any = resumed(composed.resume, HydraConfig.get().overrides.task, say=print)
            config = from_settings(settings)
        else:
            config, settings = typed(composed), OmegaConf.to_container(composed, resolve=True)
        if config.explain:
            return explain(config)
        run = prepare(config, settings)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        sys.exit(f"\n{str(stop) or 'Left before the run began; nothing was written.'}")
    try:
        train(run)
    except KeyboardInterrupt:
        sys.exit(f"\nLeft at once. What was saved: resume={run.folder.path}")
    except (ValueError, RewardError, FloatingPointError, SamplerMismatch) as error:
        sys.exit(f"error: {error}\nWhat was saved until then: resume={run.folder.path}")
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        sys.exit(f"error: {error.strerror}. Make room, then go on with: resume={run.folder.path}")
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        sys.exit(f"error: out of memory ({str(error).splitlines()[0]}). Lower one of {MEMORY_SETTINGS}.")
    finally:
        run.envs.close()


def main() -> None:
    """The command line."""
    sys.argv[1:] = as_setting(sys.argv[1:])
    print_any_text()
    _main()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is about memory; torch's allocator on the CPU raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


if __name__ == "__main__":
    main()
