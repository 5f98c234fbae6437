"""Names to objects: `"package.module.attribute"` and `{"_target_": ..., **keywords}`, as Hydra writes them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any


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


def resolve(target: str | Mapping[str, Any], *, setting: str = "reward") -> Any:
    """Classes are constructed with the keywords; functions keep them as a partial (none: the function itself).

    Raises `ValueError` for what cannot be imported and for keywords that a class does not take.
    """
    if isinstance(target, str):
        target = {"_target_": target}
    keywords = {str(key): value for key, value in target.items() if key not in ("_target_", "_partial_")}
    found = import_path(target["_target_"], setting=setting)
    if isinstance(found, type):
        try:
            return found(**keywords)
        except TypeError as error:
            path = target["_target_"]
            raise ValueError(f"{setting} {path!r} cannot be built from {sorted(keywords)}: {error}") from error
    if not callable(found) and keywords:
        raise ValueError(f"{setting} {target['_target_']!r} must be a function or a class to take {sorted(keywords)}")
    return functools.partial(found, **keywords) if keywords else found
