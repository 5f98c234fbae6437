"""`Rollout`: what was collected, as one frozen record that PPO and GRPO both read.

Shape letters used throughout `agents`:

    N  rows (episodes) = P problems x G completions
    A  response columns: column a of a row is its token at position prompt_length + a
    T  all columns: prompt, response and padding
    V  vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from textenv.types import FinishReason


@dataclass(frozen=True, slots=True)
class Rollout:
    """N episodes. Response columns that are not the policy's (padding, injected tokens) are False in `mask`;
    whatever stands in them is never read."""

    tokens: Int[Tensor, "N T"]
    """Prompt and response, right-padded."""
    prompt_length: Int[Tensor, "N"]
    length: Int[Tensor, "N"]
    """Tokens in use: prompt, policy and injected ones."""
    mask: Bool[Tensor, "N A"]
    """True where the policy chose the token."""
    sampled_logprob: Float[Tensor, "N A"]
    """Log-probability as the sampler saw it, under the distribution that was sampled from."""
    reward: Float[Tensor, "N A"]
    """Paid by the environment, per token; the score stands at the last policy token."""
    truncated: Bool[Tensor, "N"]
    """True where the environment truncated; the state after the last token then still has a value."""
    finish_reason: Int[Tensor, "N"]
    """`textenv.FinishReason` codes."""
    problem: Int[Tensor, "N"]
    """The group id: rows with equal numbers answer the same prompt."""
    episode: Int[Tensor, "N"]
    """What keyed the sampling."""
    valid: Bool[Tensor, "N"]
    """False where the grader failed; such rows take part in nothing."""
    budget: Int[Tensor, "N"] | None = None
    """Policy tokens that each row might have had; None: as many as there are response columns."""
    entropy: Float[Tensor, "N A"] | None = None
    """Of the distribution that was sampled from, in nats; None unless `collect` was asked for it."""
    old_logprob: Float[Tensor, "N A"] | None = None
    """What ratios divide by; None means the policy that is being updated itself (one update per rollout)."""
    reference_logprob: Float[Tensor, "N A"] | None = None
    reference_kl: Float[Tensor, "N A"] | None = None
    """Exact KL of the old policy to the reference in the state in which each token was chosen, where it is paid."""
    value: Float[Tensor, "N A"] | None = None
    """V of the state in which each token was chosen."""
    final_value: Float[Tensor, "N"] | None = None
    """V after the last token, for bootstrapping where the episode was truncated."""
    parts: Float[Tensor, "N K"] | None = None
    """What each part of the reward brought in, before its weight (see `agents.parts`)."""
    part_weight: Float[Tensor, "N K"] | None = None
    """The weights, the same in every row: the sum of weight times part is what was paid."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Rollout:
        """The same record for some rows, columns untouched."""
        return self._map(lambda x: x[rows])

    def with_(self, **changes: Any) -> Rollout:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def to(self, device: torch.device | str) -> Rollout:
        """A copy on `device`."""
        return self._map(lambda x: x.to(device))

    def known(self, name: str) -> Tensor:
        """An optional field that must be there by now; raises `ValueError` when nothing has filled it in."""
        x = getattr(self, name)
        if x is None:
            raise ValueError(f"the rollout has no {name}: agents.collect and agents.annotate fill in what is optional")
        return x

    def _map(self, change: Callable[[Tensor], Tensor]) -> Rollout:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(x) for name, x in values.items() if x is not None})

    @property
    def trainable(self) -> Bool[Tensor, "N A"]:
        """Policy tokens of valid rows: what losses and statistics run over."""
        return self.mask & self.valid[:, None]

    @property
    def cut(self) -> Bool[Tensor, "N"]:
        """True where the budget or the context ended the row, whether the environment calls it terminated or
        truncated."""
        return (self.finish_reason == FinishReason.BUDGET) | (self.finish_reason == FinishReason.CONTEXT)

    @property
    def max_tokens(self) -> int:
        """Policy tokens of the longest answer that there might have been, however long these are and whatever was
        injected."""
        return self.mask.shape[1] if self.budget is None else int(self.budget.max())

    @property
    def returns(self) -> Float[Tensor, "N"]:
        """Sum of each row's rewards over its policy tokens."""
        return torch.where(self.mask, self.reward, 0.0).sum(1)

    @property
    def response_length(self) -> Int[Tensor, "N"]:
        """Policy tokens per row."""
        return self.mask.sum(1)


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """The rows of all as one record, the narrower ones padded on the right. Raises `ValueError` for none at all, and
    where an optional field is there in some only."""
    if not rollouts:
        raise ValueError("joined needs at least one rollout, got none")
    values: dict[str, Tensor] = {}
    for name in (field.name for field in fields(Rollout)):
        columns = [x for rollout in rollouts if (x := getattr(rollout, name)) is not None]
        if columns and len(columns) < len(rollouts):
            raise ValueError(f"{name} must be in all rollouts or in none, got {len(columns)} of {len(rollouts)}")
        if columns:
            width = max(x.shape[-1] for x in columns)
            values[name] = torch.cat([pad(x, (0, width - x.shape[-1])) if x.ndim == 2 else x for x in columns])
    return Rollout(**values)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What an agent's last update learned from; it keeps the record as its `lesson`."""

    rollout: Rollout
    """With what the update added to what was collected."""
    advantage: Float[Tensor, "N A"] | Float[Tensor, "N"]
    """As its losses took it."""
