"""Proposals under way: what has been drawn for each row, and whether it goes on. Everything lies on the device.

A step is: states of the last token, a draw, `take`. Nothing in it waits for the host, so a GPU can be given many steps
at once, or a captured one again and again; the host looks only now and then which rows have ended (`going_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from agents.policy.sampling import Drawn


@dataclass(frozen=True, slots=True)
class Action:
    """A proposal: up to m tokens for each of the environment's N rows."""

    token: np.ndarray
    """`[N, m]` int64; what lies beyond `length` is 0."""
    length: np.ndarray
    """`[N]` int64, 0 for rows that were not asked."""
    logprob: np.ndarray
    """`[N, m]` float32."""
    entropy: np.ndarray | None = None
    """`[N, m]` float32, nats: of the distribution that each token was drawn from; None unless it was asked for."""


class Proposals:
    """Up to `max_tokens` tokens for each of B rows. Tensors keep their addresses from one `begin` to the next."""

    def __init__(self, num_rows: int, max_tokens: int, vocabulary: int, device: torch.device) -> None:
        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.max_tokens, self.spare = max_tokens, num_rows
        self.token, self.position, self.left, self.episode = (integers(num_rows) for _ in range(4))
        """Of each row: its last token and the column where that stands, tokens it may still add, the sampling key."""
        self.index = integers(num_rows)
        """Where each row's results stand below; rows drop out, results stay."""
        self.step, self.seed = integers(), integers()
        self.ends = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.out_token = integers(num_rows + 1, max_tokens)  # the row more takes what nobody wants
        self.out_logprob = torch.zeros(num_rows + 1, max_tokens, device=device)
        self.out_entropy = torch.zeros(num_rows + 1, max_tokens, device=device)
        self.count = integers(num_rows + 1)

    def begin(
        self, length: np.ndarray, budget: np.ndarray, episode: np.ndarray, *, seed: int, end_ids: Sequence[int]
    ) -> None:
        """Rows with `length` tokens that may add `budget` (at least 1) each."""
        n = len(length)
        self.num_rows, self.longest = n, int(length.max())
        for target, source in ((self.position, length - 1), (self.left, budget), (self.episode, episode)):
            target[:n] = torch.from_numpy(source.astype(np.int64))
        self.left[n:] = 0
        self.index[:n] = torch.arange(n)
        self.step.zero_()
        self.seed.fill_(seed)
        self.ends.zero_()
        self.ends[list(end_ids)] = True
        self.out_token.zero_()
        self.count.zero_()

    def going(self, n: int) -> Bool[Tensor, "n"]:
        """Which of the first n rows have not ended."""
        return self.left[:n] > 0

    def take(self, drawn: Drawn) -> None:
        """Append one token to each row that has not ended."""
        n = len(drawn.token)
        target = torch.where(self.going(n), self.index[:n], self.spare)
        place = target, self.step.expand(n)
        self.out_token.index_put_(place, drawn.token)
        self.out_logprob.index_put_(place, drawn.logprob)
        if drawn.entropy is not None:
            self.out_entropy.index_put_(place, drawn.entropy)
        self.step.add_(1)
        self.count.index_put_((target,), self.step.expand(n))
        self.token[:n] = drawn.token
        self.position[:n] += 1
        self.left[:n] = (self.left[:n] - 1).masked_fill(self.ends[drawn.token], 0)

    def going_rows(self) -> np.ndarray:
        """Which rows have not ended, by position. Waits for the device."""
        return np.flatnonzero(self.going(self.num_rows).cpu().numpy())

    def keep(self, positions: np.ndarray) -> None:
        """Go on with the rows at `positions` only, in this order."""
        self.num_rows = n = len(positions)
        order = torch.from_numpy(positions).to(self.token.device)
        for x in (self.token, self.position, self.left, self.episode, self.index):
            x[:n] = x[order]
        self.left[n:] = 0

    def result(self, rows: np.ndarray, num_rows: int, with_entropy: bool) -> Action:
        """What was drawn, at its `rows` among `num_rows`."""
        n = len(rows)
        count = np.zeros(num_rows, np.int64)
        count[rows] = self.count[:n].cpu().numpy()
        inside = np.arange(self.max_tokens) < count[rows, None]

        def spread(x: Tensor, dtype: type) -> np.ndarray:
            out: np.ndarray = np.zeros((num_rows, self.max_tokens), dtype)
            out[rows] = np.where(inside, x[:n].cpu().numpy(), 0)
            return out

        return Action(
            token=spread(self.out_token, np.int64),
            length=count,
            logprob=spread(self.out_logprob, np.float32),
            entropy=spread(self.out_entropy, np.float32) if with_entropy else None,
        )
