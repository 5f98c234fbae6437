"""The model card of an exported policy: what it is, how it was trained, how well it does, how to load it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from agents import checkpoint
from agents.evaluate import wilson
from agents.policy.loading import SMOLLM2, TINY, resolve
from agents.saved import Saved, is_own_tokenizer

SETTINGS = "training_config.yaml"
KNOWN = {SMOLLM2: ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Of models that we bring: the name on the hub, and the licence there."""
PACKAGES = ("textenv", "torch", "transformers")
NOT_TOLD = ("name", "device", "rows", "propose_tokens")
"""Settings that say nothing of what was learned."""


def card(saved: Saved, which: str, name: str, dtype: str) -> str:
    """The card's text, with the header that hubs read."""
    base, licence = origin_of(saved.config.policy.model)
    agent = saved.config.agent.name
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reinforcement-learning", "textenv", agent],
        **({"base_model": base} if base else {}),
        **({"license": licence} if licence else {}),
    }
    facts = "".join(f"| {key} | {value} |\n" for key, value in rows(saved, dtype, licence).items())
    command = f"python -m agents.export run={saved.folder.path} to={name} checkpoint={which} dtype={dtype}"
    parts = (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n# {name}",
        f"{subject(saved)}, trained by textenv with {agent.upper()} on the task `{task_name(saved)}`.",
        f"| | |\n| --- | --- |\n{facts}",
        "## Settings\n\n" + settings_told(saved),
        "## Loading\n\n" + usage(is_own_tokenizer(saved.config.policy)),
        f"Written by `{command}` with {versions()}; all settings of the training run are in `{SETTINGS}`.",
    )
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def subject(saved: Saved) -> str:
    """What was trained."""
    base, _ = origin_of(saved.config.policy.model)
    what = f"`{base or saved.config.policy.model}`" if saved.config.policy.model != TINY else "A small random model"
    adapter = saved.config.policy.adapter
    return what if adapter is None else f"{what} with an adapter of rank {adapter.rank} (merged into these weights)"


def task_name(saved: Saved) -> str:
    """As the task calls itself, where the run has said so."""
    known = saved.made_of.get("task", {}).get("name") or read_summary(saved).get("task")
    return known or saved.config.task["_target_"].rpartition(".")[2]


def rows(saved: Saved, dtype: str, licence: str | None) -> dict[str, Any]:
    """What a reader wants to know first."""
    config, counters = saved.config, saved.counters
    reward = "the task's own" if config.reward is None else ", ".join(map(weighted, config.reward.items()))
    facts: dict[str, Any] = {
        "checkpoint": f"iteration {saved.iteration} of run `{saved.folder.path.name}`",
        "reward": reward,
        "held-out accuracy before training": accuracy(saved, counters.get("before", {}).get("eval/accuracy")),
        "held-out accuracy of this checkpoint": accuracy(saved, checkpoint.metric(saved.folder.path, saved.iteration)),
        "generated tokens": f"{counters['num_tokens']:,} in {counters['num_episodes']:,} completions",
        "seconds of training": f"{counters['train_seconds']:.0f}" + on_device(saved),
        "seed": config.seed,
        "weights": dtype,
    }
    if config.policy.model != TINY:
        facts["licence of the base model"] = licence or "not known here: see the base model"
    return facts


def weighted(part: tuple[str, Any]) -> str:
    """`format (weight 0.2)`."""
    name, settings = part
    weight = settings.get("weight", 1.0) if isinstance(settings, Mapping) else 1.0
    return name if weight == 1.0 else f"{name} (weight {weight:g})"


def accuracy(saved: Saved, share: float | None) -> str:
    """A share with its 95 % interval over problems."""
    if share is None:
        return "not examined"
    problems = saved.made_of.get("task", {}).get("test", {}).get("problems")
    problems = read_summary(saved).get("num_problems") or (problems and min(problems, saved.config.evaluation.problems))
    if not problems:
        return f"{share:.3f} (greedy)"
    low, high = wilson(share, problems)
    return f"{share:.3f} (95 % interval {low:.3f} to {high:.3f}; {problems} problems, greedy)"


def on_device(saved: Saved) -> str:
    """` on cpu`, where the run has ended and said so."""
    summary = read_summary(saved)
    return f" on {summary['device']} in {summary['precision']}" if summary else ""


def settings_told(saved: Saved) -> str:
    """The size of an iteration and the rates; then every setting of agent, policy and environment that is not the
    default."""
    config = saved.config
    agent, optim = config.agent, config.agent.optim
    changed = [
        *differing("agent", agent, type(agent)()),
        *differing("policy", config.policy, type(config.policy)()),
        *differing("env", config.env, type(config.env)()),
    ]
    lines = [
        f"- {saved.iteration} iterations of {agent.prompts} prompts x {agent.group_size} completions, "
        f"at most {config.env.max_new_tokens} tokens each, at temperature {config.policy.temperature:g}",
        f"- learning rate {optim.learning_rate:g} ({optim.decay}), {optim.epochs} "
        f"epoch{'s' if optim.epochs > 1 else ''} a rollout, "
        f"KL to the untrained policy: {f'weight {agent.kl_coef:g}' if agent.kl_coef else 'none'}",
        f"- other than the defaults: {', '.join(f'`{text}`' for text in changed) or 'nothing'}",
    ]
    return "\n".join(lines)


def differing(path: str, settings: Any, default: Any) -> Iterator[str]:
    """`agent.optim.epochs=4` for every setting that is not the default."""
    for field in dataclasses.fields(settings):
        value, usual = getattr(settings, field.name), getattr(default, field.name, None)
        if field.name in NOT_TOLD or value == usual:
            continue
        if dataclasses.is_dataclass(value) and dataclasses.is_dataclass(usual):
            yield from differing(f"{path}.{field.name}", value, usual)
        else:
            yield f"{path}.{field.name}={value}"


def origin_of(model: str) -> tuple[str | None, str | None]:
    """The base model's name for others and its licence, as far as they are known here."""
    if model in KNOWN:
        return KNOWN[model]
    if model == TINY:
        return None, None
    own = front_matter(Path(resolve(model)) / "README.md")
    known = own.get("base_model") if Path(model).expanduser().is_dir() else model
    licence = own.get("license")
    return known if isinstance(known, str) else None, licence if isinstance(licence, str) else None


def front_matter(path: Path) -> dict[str, Any]:
    """The header of a model card; empty where there is none."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    if not text.startswith("---\n"):
        return {}
    try:
        header = yaml.safe_load(text[4:].partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    return header if isinstance(header, dict) else {}


def usage(own_tokenizer: bool) -> str:
    """How to load the folder."""
    model = "model = AutoModelForCausalLM.from_pretrained(folder)"
    if own_tokenizer:
        code = f"from transformers import AutoModelForCausalLM\n\n{model}"
        return (
            "The tokens are the characters of the training task; there is no tokenizer in this folder.\n\n"
            f"```python\n{code}\n```"
        )
    code = f"from transformers import AutoModelForCausalLM, AutoTokenizer\n\n{model}"
    return f"```python\n{code}\ntokenizer = AutoTokenizer.from_pretrained(folder)\n```"


def versions() -> str:
    """Of what wrote the folder."""
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return ", ".join([*(f"{name} {version(name)}" for name in PACKAGES), python])


def read_summary(saved: Saved) -> dict[str, Any]:
    """The run's summary; empty when it has not ended."""
    path = saved.folder.summary
    return json.loads(path.read_text()) if path.is_file() else {}
