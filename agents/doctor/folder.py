"""The history of a run from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from agents.config import TrainConfig
from agents.doctor.history import History, Setting
from agents.metrics import read_metrics
from agents.policy.hardware import PRECISIONS, pick_device, pick_dtype
from agents.require import require_run
from agents.run import MISMATCH_LIMIT
from agents.run_folder import RunFolder
from agents.saved import saved_config
from agents.stored import stored_iterations


@dataclass
class DoctorConfig:
    """Settings of `python -m agents.doctor`."""

    run: str | None = None
    """Folder of a run, finished or not."""

    def __post_init__(self) -> None:
        require_run(self.run)


def history_of(path: str) -> History:
    """What a run's folder says of it; a finished run's summary gives the examinations before and after.

    Raises `ValueError` where it is not the folder of a run, and where no iteration was written yet.
    """
    folder = RunFolder(Path(path))
    config = saved_config(folder)
    records = read_metrics(folder.metrics) if folder.metrics.is_file() else []
    if not records:
        raise ValueError(f"{folder.path} has no iteration yet: {folder.metrics.name} is empty or missing")
    summary = json.loads(folder.summary.read_text()) if folder.summary.is_file() else {}
    before = {"iteration": 0, **summary.get("before", {})}
    if summary.get("iterations") == records[-1]["iteration"]:  # else it is of an end from which the run was resumed
        records[-1] |= summary["after"]
    setting = Setting.of(
        config, num_problems=summary.get("num_problems"), mismatch_limit=MISMATCH_LIMIT[number_format(config, summary)]
    )
    failed = stored_iterations(folder.failure)
    return History([before, *records], replace(setting, failed_at=failed[-1] if failed else None))


def number_format(config: TrainConfig, summary: Mapping[str, Any]) -> torch.dtype:
    """What the run computed in: as its summary or its settings say, else what this machine would choose."""
    named = summary.get("precision", config.policy.precision)
    return PRECISIONS[named] if named in PRECISIONS else pick_dtype(named, pick_device(config.policy.device))
