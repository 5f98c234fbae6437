"""Try a reward: `python -m rewards.check reward=math data=rows.jsonl`.

Prints each row with every part's value, time and reason, then what the built-in hostile set found. `reward=` takes the
choices of `agents.train`, and besides them an import path or the name of an entry point.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from rewards.examine import FAULTS, Fault, Line, check_allowed, examine
from rewards.preference.commands import typed_config
from rewards.rows import read_rows
from rewards.targets import entry_point_names

CONFIG_FOLDER = str(Path(__file__).resolve().parents[1] / "conf")
"""Absolute, so that the command works from any folder."""


@dataclass
class CheckConfig:
    """What `python -m rewards.check` reads."""

    reward: Any = None
    """As in `agents.train`."""
    data: str | None = None
    """JSONL of rows; null: the hostile set alone, for rewards that need no column."""
    hostile: bool = True
    """Whether to try the hostile set."""
    timeout_seconds: float = 10.0
    """Limit of a call, for parts without a limit of their own."""
    max_rows: int | None = None
    """Rows that are read; null: all."""
    allow: list[str] = field(default_factory=list)
    """Faults that are none here."""

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1 or null, got {self.max_rows}")
        check_allowed(self.allow)
        if self.data is None and not self.hostile:
            raise ValueError("data must be given where hostile=false: there is nothing to try the reward on")


ConfigStore.instance().store(name="check_schema", node=CheckConfig)


def check(config: CheckConfig) -> list[Fault]:
    """Print what the reward makes of every sample; the faults that were found and not allowed.

    Raises `ValueError` for a reward that cannot be built, and for a file that cannot be read.
    """
    reward = build_reward(config.reward)
    rows = read_rows(config.data, max_rows=config.max_rows) if config.data else []
    faults: list[Fault] = []
    for line in examine(reward, rows, hostile=config.hostile, timeout_seconds=config.timeout_seconds):
        print("\n".join(shown(line)), flush=True)
        faults += [fault for fault in line.faults if fault.kind not in config.allow]
    print("\n".join(["", *summary(faults)]))
    return faults


def build_reward(spec: Any) -> Any:
    """The parts, instantiated. Raises `ValueError` for what cannot be."""
    if spec is None:
        raise ValueError("reward must be chosen: reward=math, or reward=my_module.my_reward (see --help)")
    try:
        return instantiate(spec, _convert_="all")
    except (InstantiationException, ImportError) as error:
        raise ValueError(f"reward cannot be built: {' '.join(str(error).split())}") from error


def shown(line: Line) -> list[str]:
    """A sample as lines of text: where, the total, and each part with value, milliseconds and reason."""
    total = "" if line.total is None else f"  total {line.total:g}"
    text = [f"{line.where}{total}"]
    for name, seconds in line.seconds.items():
        value = f"{float(line.scores[name]):g}" if name in line.scores else "-"
        reason = line.reasons.get(name, "")
        reason = " ".join(reason.split()) if name in line.scores else reason.partition("\n")[0]  # without its trace
        reason = _printable(reason)[:160]
        text.append(f"  {name:<16} {value:>10} {1000 * seconds:>9.1f} ms  {reason}".rstrip())
    return text + [f"  FAULT {fault.part} {fault.kind}" for fault in line.faults]


def summary(faults: Sequence[Fault]) -> list[str]:
    """Each kind of fault of each part: how often, and the first one in full."""
    if not faults:
        return ["nothing found"]
    found: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        found.setdefault((fault.part, fault.kind), []).append(fault)
    text = [f"faults found: {len(faults)}"]
    for (part, kind), some in found.items():
        places = ", ".join(fault.where for fault in some[:8]) + (", ..." if len(some) > 8 else "")
        text += [f"{part} {kind}: {FAULTS[kind]} ({len(some)}: {places})"]
        text += [f"  {_printable(told)}" for told in some[0].told.splitlines()]
    return text


def _printable(text: str) -> str:
    """Control characters could repaint the terminal, and lone surrogates cannot be printed."""
    return "".join(symbol if symbol.isprintable() else repr(symbol)[1:-1] for symbol in text)


def as_choices(arguments: Sequence[str]) -> list[str]:
    """`reward=package.module.attribute` and `reward=name_of_an_entry_point` in the words of `conf/reward`; one of each
    may stand in a list of choices.

    >>> as_choices(["reward=[math,my_module.my_reward]", "hostile=false"])
    ['reward=[math,function]', 'reward.function.fn._target_=my_module.my_reward', 'hostile=false']
    """
    words: list[str] = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        words += _as_choices(value) if name == "reward" else [argument]
    return words


def _as_choices(value: str) -> list[str]:
    shipped = {path.stem for path in (Path(CONFIG_FOLDER) / "reward").glob("*.yaml")}
    choices, settings = [], []
    for choice in value.strip("[]").split(","):
        if "." in choice:
            choices.append("function")
            settings.append(f"reward.function.fn._target_={choice.strip()}")
        elif choice not in shipped and choice in entry_point_names():
            choices.append("entry_point")
            settings.append(f"reward.entry_point.fn.name={choice}")
        else:
            choices.append(choice)
    chosen = ",".join(choices)
    return [f"reward=[{chosen}]" if value.startswith("[") else f"reward={chosen}", *settings]


@hydra.main(version_base="1.3", config_path=CONFIG_FOLDER, config_name="check")
def _main(settings: DictConfig) -> None:
    try:
        faults = check(typed_config(settings, CheckConfig))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("stopped")
    sys.exit(1 if faults else 0)


def main() -> None:
    """The command line."""
    sys.argv[1:] = as_choices(sys.argv[1:])
    _main()


if __name__ == "__main__":
    main()
