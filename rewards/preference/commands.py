"""From Hydra's settings to a typed config."""

from __future__ import annotations

from typing import TypeVar

from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

Config = TypeVar("Config")


def typed_config(settings: DictConfig, kind: type[Config]) -> Config:
    """The dataclass of a composed config; `ValueError` where a setting is not given or out of its range."""
    missing = sorted(OmegaConf.missing_keys(settings))
    if missing:
        raise ValueError(f"{missing[0]} must be given: {missing[0]}=...")
    try:
        config = OmegaConf.to_object(settings)
    except MissingMandatoryValue as error:
        raise ValueError(str(error)) from error
    assert isinstance(config, kind)
    return config
