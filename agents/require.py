"""What settings must fulfil, said where they are made."""

from __future__ import annotations


def require(condition: bool, message: str) -> None:
    """Raise `ValueError` with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def require_run(folder: str | None) -> None:
    """Raise `ValueError` where a program that looks at a run was not told which."""
    require(folder is not None, "run must be given, the folder of a run: run=runs/NAME")
