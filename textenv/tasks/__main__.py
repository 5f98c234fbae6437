"""`python -m textenv.tasks`: every task with an example; `python -m textenv.tasks NAME key=value ...`: one of them."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from textenv.settings_text import parse_settings
from textenv.tasks import BUILT_IN, load_task, problems_of
from textenv.types import Problem, Task, as_problem

NEED_SETTINGS = {
    "dataset": "a Hugging Face dataset: path=hub-name-or-folder",
    "jsonl": "your own problems: path=problems.jsonl",
    "parquet": "your own problems: path=problems.parquet",
    "text": "problems given in Python",
    "turns": "a text environment with reset and step: make._target_=package.module.Class",
}
WIDTH = 110


def main(arguments: Sequence[str] | None = None) -> None:
    """List the tasks, or show one."""
    parser = argparse.ArgumentParser(prog="python -m textenv.tasks", description=__doc__)
    parser.add_argument("name", nargs="?", help="one task; with reasoning_gym and no settings: all its data sets")
    parser.add_argument("settings", nargs="*", help="the task's settings, key=value")
    options = parser.parse_args(arguments)
    try:
        print_tasks(options.name, options.settings)
    except ValueError as error:
        parser.error(str(error))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_tasks(name: str | None, settings: Sequence[str]) -> None:
    """All tasks, all data sets of reasoning-gym, or one task; `task=name task.key=value` is understood too."""
    name = None if name is None else name.removeprefix("task=")
    if name is None:
        for built_in in BUILT_IN:
            print(line(built_in, {}), flush=True)
    elif name == "reasoning_gym" and not settings:
        from textenv.tasks.reasoning import datasets

        for dataset in datasets():
            print(line("reasoning_gym", {"dataset": dataset, "train_size": 1, "test_size": 1}, dataset), flush=True)
    else:
        show(load_task({"_target_": name, **parse_settings([word.removeprefix("task.") for word in settings])}))


def line(name: str, settings: dict[str, Any], title: str | None = None) -> str:
    """A task's name and the start of its first problem, or why it cannot be shown."""
    if name in NEED_SETTINGS:
        return f"{name:16}({NEED_SETTINGS[name]})"
    try:
        task = load_task({"_target_": name, **settings})
        text = " ".join(prompt_text(as_problem(problems_of(task, "train")[0])).split())
    except ValueError as error:
        text = f"({error})"
    return f"{title or name:15} {textwrap.shorten(text, WIDTH)}"


def show(task: Task) -> None:
    """Sizes, columns, and one whole example with its row."""
    problem = as_problem(problems_of(task, "train")[0])
    sizes = ", ".join(f"{len(problems_of(task, name))} {name}" for name in ("train", "test"))
    print(f"{task.name}: {sizes}; columns {', '.join(sorted(task.columns))}\n")
    print(prompt_text(problem))
    for name, value in problem.row.items():
        print(f"\n{name}: {textwrap.shorten(str(value), 4 * WIDTH)}")


def prompt_text(problem: Problem) -> str:
    """A problem's prompt as text."""
    if isinstance(problem.prompt, str):
        return problem.prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in problem.prompt)


if __name__ == "__main__":
    main()
