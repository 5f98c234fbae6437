"""Continue a run with the settings that it was started with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agents.checkpoint import config_differences
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


def resumed(folder: str, overrides: Sequence[str]) -> dict[str, Any]:
    """A run's own settings with this command line's changes. Raises `ValueError` for one that is not allowed."""
    saved = RunFolder(Path(folder)).settings()
    changes = OmegaConf.to_container(OmegaConf.from_dotlist([text.lstrip("+") for text in overrides]))
    merged: Any = OmegaConf.to_container(OmegaConf.merge(saved, changes))
    differences = config_differences(saved, merged)
    wrong = [line for line in differences if not line.startswith(FREE_GROUPS) and line.split(":")[0] not in FREE]
    if wrong:
        raise ValueError(
            f"resume={folder} continues a run and cannot change its settings: {'; '.join(wrong)}. "
            f"Free to change: {', '.join(FREE[:-2])}, evaluation.*, logging.*"
        )
    return merged
