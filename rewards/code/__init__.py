"""Unit tests on generated programs, in confined processes of their own.

`UnitTests` is the reward; `python -m rewards.code.sandbox` prints which layers of the sandbox hold on a machine.

What is not protected against, whatever the layers: a hole in the kernel (a program may still make some two hundred
system calls); what a program learns from the time things take, from which files exist and how large they are, and from
the files of the interpreter and the system's libraries, which it may read; use of the processor and of memory up to the
limits by as many programs as run at a time, and of the private file system, which they share. Tests see only values:
an answer that was looked up, or that is right for these tests only, passes. Where a layer is inactive, what it would
have forbidden is allowed. For programs of people who mean harm use a virtual machine around all of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.code.unit_tests import UnitTests as UnitTests


def __getattr__(name: str) -> Any:
    if name != "UnitTests":
        raise AttributeError(f"module 'rewards.code' has no attribute {name!r}")
    return importlib.import_module("rewards.code.unit_tests").UnitTests
