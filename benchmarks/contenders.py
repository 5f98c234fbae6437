"""Who competes: a name becomes settings of `agents.train`, composed and checked before anything runs.

A name is an agent (`ppo`), an experiment of `conf/experiment` (`rloo`), or a variant of the user's own with its
overrides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.config import register, typed
from agents.require import require
from agents.saved import CONF

EQUAL = ("task", "policy.model", "policy.tiny", "max_tokens", "evaluation")
"""Settings without which there is nothing to compare."""
CHOICES = ("agent=", "experiment=")


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those compared."""

    name: str
    algorithm: str
    """`agent.name` as composed: `rloo` is GRPO's code."""
    choice: tuple[str, ...]
    """`agent=...` or `experiment=...`."""
    overrides: tuple[str, ...]
    """What follows on the command line."""
    settings: Mapping[str, Any]
    """As composed, without a seed."""


def contenders(
    names: Sequence[str],
    *,
    common: Sequence[str],
    settings: Mapping[str, Sequence[str]],
    variants: Mapping[str, Sequence[str]],
) -> list[Contender]:
    """All of them, in the order of `names`.

    `common` is for everyone, then come the `settings` of the algorithm, of the name, and what a variant says itself.
    Raises `ValueError` for a name that nobody has, for settings and variants that would be for nobody, for settings
    that a run would refuse, and where `EQUAL` settings differ.
    """
    register()
    known = [*known_agents(), *known_experiments(), *variants]
    for name in settings:
        require(name in known, f"settings.{name} is for nobody: it must be one of {', '.join(known)}")
    for name in variants:
        require(name in names, f"variants.{name} does not run: add it to agents=[{','.join(names)}]")
    found = [contender(name, common, settings, variants.get(name)) for name in names]
    for key in EQUAL:
        values = [chosen(one.settings, key) for one in found]
        for one, value in zip(found, values, strict=True):
            require(
                value == values[0],
                f"{key} must be the same for all, got {values[0]} for {found[0].name} and {value} for {one.name}",
            )
    return found


def contender(
    name: str, common: Sequence[str], settings: Mapping[str, Sequence[str]], variant: Sequence[str] | None
) -> Contender:
    """One of them."""
    choice, own = choice_of(name, variant)
    algorithm = compose_run([*choice, *common_choices(common)])["agent"]["name"]
    of_name = settings.get(name, ()) if name != algorithm else ()
    overrides = (*common, *settings.get(algorithm, ()), *of_name, *own)
    composed = compose_run([*choice, *overrides])
    return Contender(name, algorithm, choice, overrides, composed)


def choice_of(name: str, variant: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a name is called on the command line of `agents.train`, and what a variant sets besides."""
    if variant is not None:
        choice = tuple(item for item in variant if item.startswith(CHOICES))
        require(bool(choice), f"variants.{name} must choose agent=NAME or experiment=NAME, got {list(variant)}")
        return choice, tuple(item for item in variant if item not in choice)
    agents, experiments = known_agents(), known_experiments()
    require(
        name in agents or name in experiments,
        f"agents must be among {', '.join(agents)}, the experiments {', '.join(experiments)}, or variants "
        f"(+variants.NAME=[agent=grpo,...]), got {name!r}",
    )
    return (f"agent={name}" if name in agents else f"experiment={name}",), ()


def known_agents() -> list[str]:
    """The group `agent`."""
    register()
    return [name.removesuffix(".yaml") for name in ConfigStore.instance().list("agent")]


def known_experiments() -> list[str]:
    """The files of `conf/experiment`."""
    return sorted(path.stem for path in Path(CONF, "experiment").glob("*.yaml"))


def common_choices(overrides: Sequence[str]) -> list[str]:
    """Those that choose a file (`policy=tiny`), which the settings of an agent cannot depend on."""
    return [item for item in overrides if item.partition("=")[0] in ("task", "policy", "reward")]


def compose_run(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of `agents.train <overrides>` without its seed. Raises `ValueError` for what it would refuse."""
    try:
        with beside_hydra(), initialize_config_dir(CONF, version_base="1.3"):
            composed = compose("train", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{' '.join(overrides)}: {error}") from error
    typed(composed.copy())
    settings: Any = OmegaConf.to_container(composed, resolve=False)
    return {name: value for name, value in settings.items() if name != "seed"}


@contextmanager
def beside_hydra() -> Iterator[None]:
    """Compose also inside of an application of Hydra's, which allows one at a time."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def chosen(settings: Mapping[str, Any], key: str) -> Any:
    """A setting by its dotted name."""
    value: Any = settings
    for part in key.split("."):
        value = value[part]
    return value


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    out: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping) and bool(value)
        out |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return out


def unequal(found: Sequence[Contender]) -> dict[str, dict[str, Any]]:
    """Settings outside of the agent's own that are not the same for all: setting -> name -> value."""
    flats = {one.name: flat({k: v for k, v in one.settings.items() if k != "agent"}) for one in found}
    keys = sorted({key for settings in flats.values() for key in settings})
    rows = {key: {name: settings.get(key) for name, settings in flats.items()} for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[found[0].name] for value in row.values())}
