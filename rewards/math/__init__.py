"""Checks of mathematical answers. sympy is imported only where an exact comparison of numbers does not decide."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.math.answer import MathAnswer as MathAnswer
    from rewards.math.last_integer import LastInteger as LastInteger
    from rewards.math.partial_credit import PartialCredit as PartialCredit

_HOMES = {"LastInteger": "last_integer", "MathAnswer": "answer", "PartialCredit": "partial_credit"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rewards.math' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rewards.math.{_HOMES[name]}"), name)
