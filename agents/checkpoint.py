"""Checkpoints: written atomically, checksummed, and read back only when intact.

    <run>/checkpoints/iteration_000012/state.pt        torch.save, loadable with weights_only=True
                                       manifest.json   iteration, metric, size and sha256 of state.pt

A checkpoint is written in a folder of another name, flushed to the disk and renamed. Old ones are removed only
after that. So a process that is killed at any moment leaves every earlier checkpoint that it did not mean to remove.
One process writes to a run at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from agents.disk import check_room, save_told

PREFIX = "iteration_"
REPLACED = ".replaced_"
"""Before the name of a checkpoint that is being overwritten: it still counts until its successor is in place."""
SCRATCH = ".scratch_"
"""Before the name of a folder that is being written or removed: whatever is in it does not count."""
PLAIN = (bool, int, float, str, bytes, type(None))


def save(
    folder: Path | str, iteration: int, state: dict[str, Any], *, keep: int = 2, best: float | None = None
) -> Path:
    """Write `state` under the run's `folder`, then remove what is no longer kept; return the checkpoint's folder.

    `state` is made of dicts, lists, tuples, tensors, numbers, strings and None. `best` is this state's held-out
    metric, more being better: besides the latest `keep` checkpoints the one with the highest metric stays (the
    earlier one of equals). A checkpoint of the same iteration is replaced; those of *later* iterations belong to a
    past that was given up when an earlier one was resumed, and are removed. Raises, with every earlier checkpoint as
    it was, `ValueError` for a state that could not be loaded again and for a `keep` below 1 (before anything is
    written), and `OSError` with an `errno` of `agents.disk.NO_ROOM` where the disk has too little room.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    num_bytes = _check_plain(state, "state")
    checkpoints = _checkpoints(folder)
    checkpoints.mkdir(parents=True, exist_ok=True)
    _flush(checkpoints.parent)
    _remove_scratch(checkpoints)
    check_room(checkpoints, num_bytes)
    final = checkpoints / f"{PREFIX}{iteration:06d}"
    scratch = checkpoints / f"{SCRATCH}{final.name}"
    try:
        _write(scratch, iteration, state, best)
        if final.exists():
            _set_aside(final)
        scratch.rename(final)
    except OSError as error:
        raise OSError(error.errno, f"{final} could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _flush(checkpoints)
    _prune(checkpoints, iteration, keep)
    return final


def load(
    folder: Path | str,
    iteration: int | None = None,
    *,
    say: Callable[[str], None] = warnings.warn,
    map_location: torch.device | str = "cpu",
) -> tuple[int, dict[str, Any]]:
    """The newest intact checkpoint of the run in `folder`, or the one of `iteration`: `(iteration, state)`.

    A damaged one is named through `say` and passed over in favour of the one before. Raises `ValueError` with the
    file and what is wrong with it when none is intact, when that of `iteration` is not, or when there is none.
    """
    candidates = [path for path in _newest_first(folder) if iteration in (None, _iteration(path))]
    which = "checkpoint" if iteration is None else f"checkpoint of iteration {iteration}"
    if not candidates:
        there = ", ".join(str(i) for i in iterations(folder)) or "none"
        raise ValueError(f"no {which} in {_checkpoints(folder)} (iterations there: {there})")
    damages: list[str] = []
    for path in candidates:
        damage = find_damage(path)
        if damage is None:
            for message in damages:
                say(f"{message}; going back to {path.name.removeprefix(REPLACED)}")
            return _iteration(path), torch.load(path / "state.pt", map_location=map_location, weights_only=True)
        damages.append(damage)
    raise ValueError(f"no intact {which}: " + "; ".join(damages))


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's folder, with the file's name; None when it is intact."""
    manifest_path, state_path = checkpoint / "manifest.json", checkpoint / "state.pt"
    try:
        manifest = json.loads(manifest_path.read_text())
        expected, size = manifest["sha256"], manifest["size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{manifest_path} cannot be read ({type(error).__name__}: {error})"
    if not state_path.is_file():
        return f"{state_path} is missing"
    if (actual_size := state_path.stat().st_size) != size:
        return f"{state_path} has {actual_size} bytes, its manifest says {size}"
    if (actual := _sha256(state_path)) != expected:
        return f"{state_path} has sha256 {actual[:12]}..., its manifest says {str(expected)[:12]}..."
    return None


def iterations(folder: Path | str) -> list[int]:
    """The iterations that have a checkpoint, intact or not, in ascending order."""
    return sorted({_iteration(path) for path in _newest_first(folder)})


def best_iteration(folder: Path | str) -> int | None:
    """The iteration with the highest held-out metric, the earlier of equals; None when none has a metric."""
    metrics = {_iteration(path): metric for path in _newest_first(folder) if (metric := _metric(path)) is not None}
    return min(metrics, key=lambda i: (-metrics[i], i)) if metrics else None


def metric(folder: Path | str, iteration: int) -> float | None:
    """The held-out metric of an iteration's checkpoint; None where it was not examined or is not there."""
    return next((_metric(path) for path in _newest_first(folder) if _iteration(path) == iteration), None)


def best_metric(folder: Path | str) -> float | None:
    """The held-out metric of that iteration's checkpoint."""
    return max((metric for path in _newest_first(folder) if (metric := _metric(path)) is not None), default=None)


def config_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The settings in which two configurations differ, one line each, in alphabetical order.

    Lists and tuples of equal content are equal, as are two NaNs.

    >>> config_differences({"agent": {"lr": 1e-5, "epochs": 2}}, {"agent": {"lr": 1e-4}, "seed": 0})
    ['agent.epochs: saved 2, now absent', 'agent.lr: saved 1e-05, now 0.0001', 'seed: saved absent, now 0']
    """
    was, now = dict(_leaves(saved)), dict(_leaves(current))
    differing = [
        path for path in sorted({*was, *now}) if not (path in was and path in now and _same(was[path], now[path]))
    ]
    return [f"{path}: saved {_shown(was, path)}, now {_shown(now, path)}" for path in differing]


def write_atomically(path: Path | str, content: str | bytes) -> None:
    """Write a file so that readers, and a crash, see either all of it or what was there before."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    _flush(path.parent)


def _write(scratch: Path, iteration: int, state: dict[str, Any], metric: float | None) -> None:
    """A complete checkpoint in `scratch`, on the disk when this returns."""
    scratch.mkdir()
    state_path = scratch / "state.pt"
    with state_path.open("wb") as file:
        save_told(state, file)
        file.flush()
        os.fsync(file.fileno())
    finite = metric if metric is not None and math.isfinite(metric) else None
    size, sha256 = state_path.stat().st_size, _sha256(state_path)
    manifest = {"iteration": iteration, "metric": finite, "size": size, "sha256": sha256}
    write_atomically(scratch / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def _set_aside(final: Path) -> None:
    """Rename a checkpoint so that its successor can take the name; `load` still finds it in between."""
    aside = final.with_name(REPLACED + final.name)
    if aside.exists():
        _remove(aside)
    final.rename(aside)


def _prune(checkpoints: Path, iteration: int, keep: int) -> None:
    """Remove what is neither among the latest `keep` up to `iteration` nor the best of those."""
    for path in checkpoints.glob(f"{REPLACED}*"):
        _remove(path)
    there = {_iteration(path): path for path in checkpoints.glob(f"{PREFIX}*")}
    for i in [i for i in there if i > iteration]:
        _remove(there.pop(i))
    kept = {*sorted(there)[-keep:], best_iteration(checkpoints.parent)}
    for i, path in there.items():
        if i not in kept:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder; what a crash leaves of it does not look like a checkpoint."""
    scratch = path.with_name(f"{SCRATCH}removed_{path.name.removeprefix(REPLACED)}")
    shutil.rmtree(scratch, ignore_errors=True)
    path.rename(scratch)
    shutil.rmtree(scratch, ignore_errors=True)


def _remove_scratch(checkpoints: Path) -> None:
    for path in checkpoints.glob(f"{SCRATCH}*"):
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path | str) -> Path:
    return Path(folder) / "checkpoints"


def _newest_first(folder: Path | str) -> list[Path]:
    """All checkpoints' folders; of one iteration the new one before the one it replaces."""
    paths = [*_checkpoints(folder).glob(f"{PREFIX}*"), *_checkpoints(folder).glob(f"{REPLACED}{PREFIX}*")]
    return sorted(paths, key=lambda path: (-_iteration(path), path.name.startswith(REPLACED)))


def _iteration(path: Path) -> int:
    return int(path.name.removeprefix(REPLACED).removeprefix(PREFIX))


def _metric(checkpoint: Path) -> float | None:
    try:
        return json.loads((checkpoint / "manifest.json").read_text())["metric"]
    except (OSError, ValueError, KeyError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Put a folder's list of names on the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_plain(value: Any, path: str) -> int:
    """Refuse what `torch.load(weights_only=True)` would refuse, while the state can still be changed; returns how many
    bytes its tensors take."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if type(value) in (dict, OrderedDict, defaultdict):
        for key in value:
            if type(key) not in PLAIN:
                raise ValueError(f"{path} has a key of type {type(key).__name__}; keys must be strings or numbers")
        return sum(_check_plain(item, f"{path}.{key}") for key, item in value.items())
    if type(value) in (list, tuple):
        return sum(_check_plain(item, f"{path}[{i}]") for i, item in enumerate(value))
    if type(value) not in PLAIN:
        raise ValueError(
            f"{path} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds dicts, lists, "
            "tuples, tensors, numbers, strings and None"
        )
    return 0


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted path; a list is one setting, as is an empty mapping."""
    if isinstance(value, Mapping) and (value or not path):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b or (a != a and b != b)


def _shown(settings: Mapping[str, Any], path: str) -> str:
    return repr(settings[path]) if path in settings else "absent"
