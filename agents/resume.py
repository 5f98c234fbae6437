"""Continue a run with the settings that it was started with."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from agents.checkpoint import config_differences
from agents.run_folder import RunFolder

FREE = ("iterations", "max_seconds", "checkpoint_every", "keep_checkpoints", "threads", "resume")
"""What a resumed run may change, and everything under `FREE_GROUPS`; anything else would be another run."""
FREE_GROUPS = ("evaluation.", "logging.")


def resumed(composed: DictConfig) -> DictConfig:
    """The run's own settings, with this command line's changes. Raises `ValueError` for a change that is not allowed."""
    saved = RunFolder(Path(composed.resume)).settings()
    changes = OmegaConf.from_dotlist([o.lstrip("+") for o in HydraConfig.get().overrides.task])
    merged = OmegaConf.merge(OmegaConf.create(saved), changes)
    differences = config_differences(saved, OmegaConf.to_container(merged))  # type: ignore[arg-type]
    wrong = [d for d in differences if not d.startswith(FREE_GROUPS) and d.split(":")[0] not in FREE]
    if wrong:
        raise ValueError(
            f"resume={composed.resume} continues a run and cannot change its settings: {'; '.join(wrong)}. "
            f"Free to change: {', '.join(FREE[:-1])}, evaluation.*, logging.*"
        )
    for group in ("agent", "task", "reward"):
        composed[group] = merged.get(group) if group != "agent" else OmegaConf.merge(agent_schema(saved), saved[group])
    return OmegaConf.merge(composed, OmegaConf.masked_copy(merged, [k for k in merged if k not in ("agent", "task", "reward")]))  # type: ignore[return-value]


def agent_schema(saved: dict) -> DictConfig:
    """The structured configuration of the saved agent."""
    from agents.grpo import GRPOConfig
    from agents.ppo import PPOConfig

    return OmegaConf.structured({"grpo": GRPOConfig, "ppo": PPOConfig}[saved["agent"]["name"]])
