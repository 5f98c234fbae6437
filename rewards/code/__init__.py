"""Unit tests on generated programs, in limited processes of their own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.code.unit_tests import UnitTests as UnitTests


def __getattr__(name: str) -> Any:
    if name != "UnitTests":
        raise AttributeError(f"module 'rewards.code' has no attribute {name!r}")
    return importlib.import_module("rewards.code.unit_tests").UnitTests
