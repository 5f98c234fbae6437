"""Names to objects: `"package.module.attribute"` and `{"_target_": ..., **keywords}`, as Hydra writes them.

A reward may also be an entry point of an installed package, in the group `textenv.rewards`: a name without dots.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

ENTRY_POINTS = "textenv.rewards"


def import_path(path: str, *, setting: str = "reward") -> Any:
    """The object at a dotted path; raises `ValueError` that names the setting and says which step was missing."""
    module_name, _, attribute = path.rpartition(".")
    if not module_name:
        raise ValueError(f"{setting} must be given as package.module.attribute, got {path!r}")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        raise ValueError(f"{setting} {path!r} cannot be imported: no module named {missing!r}") from error
    except AttributeError as error:
        raise ValueError(f"{setting} {path!r} cannot be imported: {module_name} has no {attribute!r}") from error


def entry_point_names() -> list[str]:
    """The rewards that installed packages offer."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)})


def entry_point(name: str, **keywords: Any) -> Any:
    """The reward that an installed package offers by a name, built as `resolve` builds.

    Raises `ValueError` for a name that no package offers, or several do, and for one that cannot be loaded.
    """
    offered = importlib.metadata.entry_points(group=ENTRY_POINTS)
    found = list({point.value: point for point in offered if point.name == name}.values())
    if len(found) != 1:
        told = f"is offered {len(found)} times: {sorted(point.value for point in found)}" if found else "is not there"
        raise ValueError(
            f"reward must be an entry point of the group {ENTRY_POINTS} {entry_point_names()}, {name!r} {told}"
        )
    try:
        target = found[0].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reward {name!r} ({found[0].value}) cannot be imported: {error}") from error
    return _built(target, keywords, f"reward {name!r}")


def resolve(target: str | Mapping[str, Any], *, setting: str = "reward") -> Any:
    """Classes are constructed with the keywords; functions keep them as a partial (none: the function itself).

    Raises `ValueError` for what cannot be imported and for keywords that a class does not take.
    """
    if isinstance(target, str):
        target = {"_target_": target}
    keywords = {str(key): value for key, value in target.items() if key not in ("_target_", "_partial_")}
    path = target["_target_"]
    if setting == "reward" and "." not in path:
        return entry_point(path, **keywords)
    return _built(import_path(path, setting=setting), keywords, f"{setting} {path!r}")


def _built(found: Any, keywords: dict[str, Any], told: str) -> Any:
    if isinstance(found, type):
        try:
            return found(**keywords)
        except TypeError as error:
            raise ValueError(f"{told} cannot be built from {sorted(keywords)}: {error}") from error
    if not callable(found) and keywords:
        raise ValueError(f"{told} must be a function or a class to take {sorted(keywords)}")
    return functools.partial(found, **keywords) if keywords else found
