"""Tasks: problems in disjoint splits, deterministic by index. `load_task` finds one by name."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from textenv.types import Problem, Task

BUILT_IN = {
    "arithmetic": "textenv.tasks.arithmetic.Arithmetic",
    "calculator": "textenv.tasks.calculator.Calculator",
    "countdown": "textenv.tasks.countdown.Countdown",
    "dataset": "textenv.tasks.data.dataset_task",
    "digits": "textenv.tasks.digits.Digits",
    "guess": "textenv.tasks.guess.Guess",
    "human_eval": "textenv.tasks.code.HumanEval",
    "json_format": "textenv.tasks.json_format.JsonFormat",
    "jsonl": "textenv.tasks.data.jsonl_task",
    "melody": "textenv.tasks.melody.Melody",
    "parquet": "textenv.tasks.data.parquet_task",
    "reasoning_gym": "textenv.tasks.reasoning.ReasoningGym",
    "strings": "textenv.tasks.strings.Strings",
    "target": "textenv.tasks.target.Target",
    "text": "textenv.tasks.text.Problems",
    "turns": "textenv.adapters.turns.TurnTask",
}
"""Short names; anything else is an import path."""


def load_task(spec: Any) -> Task:
    """A task from a built-in name, an import path, `{"_target_": path, **keywords}`, or a `Task` itself.

    >>> load_task("arithmetic").split("train")[0].prompt
    'What is 44 + 91?'
    """
    if isinstance(spec, str):
        spec = {"_target_": spec}
    if isinstance(spec, Mapping):
        if "_target_" not in spec:
            raise ValueError(f"task must have a _target_, got the keys {sorted(spec)}")
        keywords = {str(key): value for key, value in spec.items() if key != "_target_"}
        spec = _constructed(str(spec["_target_"]), keywords)
    if isinstance(spec, type):
        raise ValueError(f"task must be an object, got the class {spec.__name__}: construct it first")
    for attribute in ("name", "columns", "split", "reward"):
        if not hasattr(spec, attribute):
            raise ValueError(
                f"task must have name, columns, split() and reward() (textenv.Task), {spec!r} has no {attribute}"
            )
    if isinstance(spec.columns, str) or not isinstance(spec.columns, Collection):
        raise ValueError(f"columns of task {spec.name!r} must be a set of names, got {spec.columns!r}")
    return spec


def problems_of(task: Task, split: str) -> Sequence[Problem]:
    """A split of the task's; `ValueError` where it is no sequence."""
    problems = task.split(split)
    if isinstance(problems, str) or not (hasattr(problems, "__len__") and hasattr(problems, "__getitem__")):
        raise ValueError(
            f"split({split!r}) of task {task.name!r} must be a sequence of problems, got {type(problems).__name__}"
        )
    return problems


def _constructed(path: str, keywords: dict[str, Any]) -> Any:
    found = _import(path)
    try:
        return found(**keywords)
    except TypeError as error:
        raise ValueError(f"task {path!r} cannot be built from {sorted(keywords)}: {error}") from error


def _import(path: str) -> Any:
    module, _, attribute = BUILT_IN.get(path, path).rpartition(".")
    if not module:
        raise ValueError(f"task must be one of {', '.join(BUILT_IN)} or an import path, got {path!r}")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"task {path!r} cannot be imported: {error}") from error
