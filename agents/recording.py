"""Watches an update and makes of it what is stored: the rollout with advantages, ratios and clips, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.collect import Collected
from agents.fingerprint import weights_hash
from agents.optim import TokenLoss
from agents.setup import Agent
from agents.stored import Stored


class Recording:
    """One iteration's. Made when the rollout is there; it only reads. `acted`: whether the weights are still those that
    acted, which those are not that an update has moved before it failed."""

    def __init__(self, agent: Agent, collected: Collected, *, settings: str, acted: bool = True) -> None:
        self._agent, self._collected, self._settings = agent, collected, settings
        self._weights = weights_hash(agent.policy.model) if acted else ""
        shape = collected.rollout.mask.shape
        self._ratio, self._clipped = torch.full(shape, torch.nan), torch.zeros(shape, dtype=torch.int8)
        agent.optimizer.watch = self._see

    def _see(self, rows: Tensor, result: TokenLoss) -> None:
        """Keep what the losses say of these rows' tokens; a later visit overwrites."""
        report, mask = result.report, self._collected.rollout.trainable[rows]
        if "ratio/mean" in report:
            self._ratio[rows] = torch.where(mask, report["ratio/mean"].cpu().float(), torch.nan)
        if "clip_ratio/low" in report:
            high, low = (report[f"clip_ratio/{side}"].cpu() for side in ("high", "low"))
            self._clipped[rows] = torch.where(mask, high - low, 0.0).to(torch.int8)

    def stored(self, iteration: int) -> Stored:
        """The record, once the update is over or has failed."""
        lesson, self._agent.optimizer.watch = self._agent.lesson, None
        return Stored(
            iteration=iteration,
            settings=self._settings,
            weights=self._weights,
            rollout=self._collected.rollout if lesson is None else lesson.rollout,
            advantage=None if lesson is None else lesson.advantage,
            ratio=self._ratio,
            clipped=self._clipped,
            samples=[ended.sample for ended in self._collected.ended],
            verdicts=[ended.verdict for ended in self._collected.ended],
        )
