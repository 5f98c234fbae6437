"""Continue a run with the settings that it was started with, on the problems, tokens and weights that it began with.

What is promised: on one CPU, with the same number of threads and rows, a run that was killed at any moment and resumed
ends with the same weights, bit for bit, as one that was left alone. With one thread that always holds, with several
under `strict=true` (torch adds some gradients in the order in which threads come). Not covered is what a reward or a
task draws from elsewhere than the global generators of this process (`agents.randomness`): another process, a server,
the clock; nor what it remembers from call to call, such as a running mean; nor a run that ends by `max_seconds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agents.checkpoint import config_differences
from agents.config import schema, settings_apart
from agents.run_folder import RunFolder

FREE = (
    "iterations",
    "max_seconds",
    "max_tokens",
    "checkpoint_every",
    "keep_checkpoints",
    "threads",
    "resume",
    "explain",
)
"""What a resumed run may change, and everything under `FREE_GROUPS`; anything else would be another run."""
FREE_GROUPS = ("evaluation.", "logging.")
COMMAND = ("resume", "explain")
"""Of those, what belongs to one call."""
PLACE = ("name", "runs")
"""Where a run lies, not what it is."""


def resumed(folder: str, overrides: Sequence[str], say: Callable[[str], None] = print) -> dict[str, Any]:
    """A run's own settings with this command line's changes. Raises `ValueError` for one that is not allowed.

    Settings that are newer than the run take their defaults, and `say` names them.
    """
    saved = RunFolder(Path(folder)).settings()
    tell_newer(saved, say)
    changes: Any = OmegaConf.to_container(OmegaConf.from_dotlist([text.lstrip("+") for text in overrides]))
    chosen = [
        f"{name}={x}"
        for name, x in changes.items()
        if isinstance(saved.get(name), Mapping) and not isinstance(x, Mapping)
    ]
    if chosen:
        raise ValueError(f"resume={folder} continues a run, whose choices are made: leave out {', '.join(chosen)}")
    merged: Any = OmegaConf.to_container(OmegaConf.merge(saved, changes))
    differences = config_differences(saved, merged)
    wrong = [line for line in differences if not line.startswith(FREE_GROUPS) and line.split(":")[0] not in FREE]
    if wrong:
        raise ValueError(
            f"resume={folder} continues a run and cannot change its settings: {'; '.join(wrong)}. "
            f"Free to change: {', '.join(name for name in FREE if name not in COMMAND)}, evaluation.*, logging.*"
        )
    return merged


def tell_newer(saved: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Name the settings that this version of the program has and the run's folder lacks."""
    try:
        known: Any = OmegaConf.to_container(schema(saved))
    except (KeyError, TypeError):
        return  # no settings of a run: `from_settings` says so
    _, newer = settings_apart(saved, known)
    if newer:
        say(f"Settings that are newer than this run take their defaults: {', '.join(newer)}")


def remember(folder: RunFolder, settings: Mapping[str, Any], iteration: int) -> list[str]:
    """Write what a resumed run changes into its settings, from which the next resume starts: else a run that was made
    longer would fall back to its old length, and its learning rates with it. Returns the changes."""
    saved = folder.settings()
    asked = {name: x for name, x in settings.items() if name not in COMMAND}
    settings = {**asked, **{name: saved[name] for name in COMMAND if name in saved}}
    changes = config_differences(saved, settings)
    if changes:
        folder.rewrite(settings, [f"resumed after iteration {iteration}: {change}" for change in changes])
    return changes


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a run what it is: those that resuming cannot change."""
    free = {*FREE, *PLACE, *(group.rstrip(".") for group in FREE_GROUPS)}
    return {name: value for name, value in settings.items() if name not in free}


@contextmanager
def continued(folder: Path, iteration: int, state: Mapping[str, Any], made_of: Mapping[str, Any]) -> Iterator[None]:
    """Around the loading of a checkpoint. Raises `ValueError` where the task, the tokenizer or the untrained model is
    another one than the run began with, and where the state does not fit the program or the model."""
    changes = config_differences(state.get("made_of", made_of), made_of)
    if changes:
        raise ValueError(f"resume={folder} cannot go on, what the run began with has changed: {'; '.join(changes)}")
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"resume={folder}: the checkpoint of iteration {iteration} does not fit this program or this model "
            f"({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
