"""A training under way, as the folder `<output>.unfinished` beside the reward model that it is to become.

It holds `settings.json` (the settings and the fingerprints of the data), `metrics.jsonl` and `state.pt` (weights that
are trained, optimizer, step). The state is written under another name and renamed, so whatever happens it is that of
some step, whole. It vanishes when the reward model is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rewards.preference.config import TrainConfig
from rewards.preference.evaluation import Metrics

FREE = ("checkpoint_every", "device", "microbatch_size", "overwrite", "resume")
"""What a resumed training may change; device and microbatches change the last bits of the weights."""
COMMAND = "python -m rewards.preference.train"


class Stopped(KeyboardInterrupt):
    """A training that was interrupted; the message says how to go on."""


@dataclass(frozen=True)
class Unfinished:
    """The folder of one training."""

    path: Path

    @classmethod
    def of(cls, output: str) -> Unfinished:
        """That of the training of `output`, whether it is there or not."""
        folder = Path(output)
        return cls(folder.with_name(f"{folder.name}.unfinished"))

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def settings(self) -> Path:
        return self.path / "settings.json"

    @property
    def state(self) -> Path:
        return self.path / "state.pt"

    def exists(self) -> bool:
        return self.settings.is_file()

    def check(self, config: TrainConfig) -> None:
        """Raises `ValueError` where `config` starts anew what is under way, or goes on with what is not, or with other
        settings or data than it began with; no weight is loaded."""
        if config.resume is None:
            if self.exists():
                raise ValueError(
                    f"output={config.output} is under way, {self.path} holds its state: go on with "
                    f"{COMMAND} resume={config.output}, or remove that folder to start again"
                )
            return
        if config.resume != config.output:
            raise ValueError(f"resume must be the output of the training, {config.output}, got {config.resume}")
        changes = [change for change in differences(self.read(), about(config)) if change.split(":")[0] not in FREE]
        if changes:
            raise ValueError(
                f"resume={config.resume} goes on with the settings and data that it began with: {'; '.join(changes)}. "
                f"Free to change: {', '.join(FREE[:-1])}"
            )

    def read(self) -> dict[str, Any]:
        """What `begin` wrote. Raises `ValueError` where there is none."""
        if not self.exists():
            raise ValueError(f"resume must be the output of an interrupted training, there is no {self.settings}")
        return json.loads(self.settings.read_text(encoding="utf-8"))

    def begin(self, config: TrainConfig) -> None:
        """Make the folder, unless it is there."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.exists():
            _write(self.settings, (json.dumps(about(config), indent=2) + "\n").encode())

    def save(self, step: int, seconds: float, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Replace the state by this one."""
        scratch = self.state.with_suffix(".partial")
        weights = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
        with scratch.open("wb") as file:
            torch.save(
                {"step": step, "seconds": seconds, "weights": weights, "optimizer": optimizer.state_dict()}, file
            )
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.state)

    def restore(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Put the state back, and the metrics to where it was; `(steps, seconds)` until then, zeros where none was
        saved. Raises `ValueError` where the state is damaged or of another model."""
        if not self.state.is_file():
            self.metrics.unlink(missing_ok=True)
            return 0, 0.0
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
            _put_back(state["weights"], network)
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{self.state} is damaged or of another model: {error}") from error
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True) if self.metrics.is_file() else []
        _write(self.metrics, "".join(lines[: state["step"]]).encode())
        return state["step"], state["seconds"]

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def log_step(file: Any, step: int, metrics: Metrics) -> None:
    """A line of `metrics.jsonl`, on its way to the disk at once."""
    file.write(json.dumps({"step": step, **metrics}) + "\n")
    file.flush()


def resumed(output: str, overrides: Sequence[str]) -> TrainConfig:
    """The settings that an interrupted training began with, with those of this command line.

    Raises `ValueError` where there is no such training; `Unfinished.check` says which settings may not differ.
    """
    saved = Unfinished.of(output).read()["settings"]
    if Path(output).resolve() != Path(saved["output"]).resolve():
        raise ValueError(f"resume={output} was begun as output={saved['output']}: call it from where it was begun")
    changes = OmegaConf.from_dotlist([override.lstrip("+") for override in overrides])
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), saved, changes, {"resume": saved["output"]})
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    assert isinstance(config, TrainConfig)
    return config


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, a line each in alphabetical order; inside the top-level groups, by dotted names.

    >>> differences({"settings": {"lora": {"rank": 0}, "seed": 1}}, {"settings": {"lora": {"rank": 4}, "seed": 1}})
    ['lora.rank: saved 0, now 4']
    """
    was, is_now = ({name: x for group in d.values() for name, x in _leaves(group)} for d in (saved, now))
    absent = "absent"
    return [
        f"{name}: saved {was.get(name, absent)!r}, now {is_now.get(name, absent)!r}"
        for name in sorted({*was, *is_now})
        if was.get(name, absent) != is_now.get(name, absent)
    ]


def about(config: TrainConfig) -> dict[str, Any]:
    """What a training is known by, as JSON gives it back."""
    return json.loads(json.dumps({"settings": asdict(config), "data": fingerprints(config)}))


def fingerprints(config: TrainConfig) -> dict[str, str]:
    """The SHA-256 of the data files, under names for `differences`."""
    files = {"content of data": config.data, "content of eval_data": config.eval_data}
    return {
        name: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        for name, path in files.items()
        if path is not None and Path(path).is_file()
    }


def _leaves(group: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in group.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


@torch.no_grad()
def _put_back(weights: Mapping[str, torch.Tensor], network: torch.nn.Module) -> None:
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if {name: p.shape for name, p in trained.items()} != {name: w.shape for name, w in weights.items()}:
        raise ValueError("its weights are not those that are trained")
    for name, parameter in trained.items():
        parameter.copy_(weights[name])


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_bytes(content)
    scratch.replace(path)
