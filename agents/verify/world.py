"""Worlds so small that every trajectory can be written down, and policies that are tables.

Token 0 ends an episode; what has not ended when the budget is spent is truncated. A state is a prompt and what has been
written since, and a table of logits per state is a policy. Nothing is sampled: an expectation is a sum over
trajectories.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from agents.policy import Evaluation
from agents.rollout import Rollout
from textenv.types import FinishReason

END = 0
WEIGHTS = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class World:
    """K trajectories of at most A = `budget` tokens, those of all prompts one after the other."""

    vocabulary: int
    budget: int
    group_size: int
    """Completions of each prompt in a batch."""
    prompt: Int[Tensor, "K"]
    token: Int[Tensor, "K A"]
    mask: Bool[Tensor, "K A"]
    state: Int[Tensor, "K A"]
    """In which each token is chosen; rows of a table policy."""
    score: Float[Tensor, "K"]
    """Paid at the last token."""
    parts: Float[Tensor, "K 2"]
    """Of which it is the sum, weighed by `WEIGHTS`."""
    beyond: Float[Tensor, "K"]
    """What would still have been earned on average had the budget not cut the trajectory off; 0 where it ended."""

    @property
    def num_prompts(self) -> int:
        return int(self.prompt.max()) + 1

    @property
    def num_states(self) -> int:
        return int(self.state.max()) + 1

    @property
    def length(self) -> Int[Tensor, "K"]:
        return self.mask.sum(1)

    @property
    def truncated(self) -> Bool[Tensor, "K"]:
        return self.last_token != END

    @property
    def last_token(self) -> Int[Tensor, "K"]:
        return self.token.gather(1, self.length[:, None] - 1)[:, 0]

    def rollout(self, number: Int[Tensor, "N"]) -> Rollout:
        """The trajectories of these numbers, which stand in `episode`, as if collected. What may not be read is NaN."""
        mask, length = self.mask[number], self.length[number]
        prompt = (self.vocabulary + self.prompt[number])[:, None]
        unread = torch.full(mask.shape, torch.nan, dtype=torch.float64)
        return Rollout(
            tokens=torch.cat([prompt, self.token[number]], 1),
            prompt_length=torch.ones_like(length),
            length=1 + length,
            mask=mask,
            sampled_logprob=unread,
            reward=unread.masked_fill(mask, 0.0).scatter(1, length[:, None] - 1, self.score[number, None]),
            truncated=self.truncated[number],
            finish_reason=torch.where(self.truncated[number], int(FinishReason.BUDGET), int(FinishReason.EOS)),
            problem=self.prompt[number],
            episode=number,
            valid=torch.ones_like(length, dtype=torch.bool),
            parts=self.parts[number],
            part_weight=torch.tensor(WEIGHTS, dtype=torch.float64).expand(len(number), 2),
        )


def written(vocabulary: int, budget: int, before: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Everything that can be written, in order.

    >>> list(written(2, 2))
    [(0,), (1, 0), (1, 1)]
    """
    for token in range(vocabulary):
        now = (*before, token)
        if token == END or len(now) == budget:
            yield now
        else:
            yield from written(vocabulary, budget, now)


def enumerated(
    vocabulary: int,
    budget: int,
    *,
    prompts: int = 1,
    group_size: int,
    score: Sequence[float] | None = None,
    beyond: float = 0.0,
) -> World:
    """The world of all trajectories. `score`: one a trajectory; None: some numbers in [0, 1] that are all different.

    What lies beyond the budget is worth up to `beyond`, differently for each trajectory.
    """
    texts = [text for _ in range(prompts) for text in written(vocabulary, budget)]
    prompt = [p for p in range(prompts) for _ in written(vocabulary, budget)]
    states: dict[tuple[int, ...], int] = {}
    number = [
        [states.setdefault((p, *text[:t]), len(states)) for t in range(len(text))]
        for p, text in zip(prompt, texts, strict=True)
    ]
    mask = rectangle([[1] * len(text) for text in texts], budget).bool()
    some = torch.rand(3, len(texts), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cut = torch.tensor([text[-1] != END for text in texts])
    paid = some[0] if score is None else torch.tensor(score, dtype=torch.float64)
    return World(
        vocabulary=vocabulary,
        budget=budget,
        group_size=group_size,
        prompt=torch.tensor(prompt),
        token=rectangle(texts, budget),
        mask=mask,
        state=rectangle(number, budget),
        score=paid,
        parts=torch.stack([some[2], paid - WEIGHTS[0] * some[2]], 1),
        beyond=torch.where(cut, beyond * some[1], 0.0),
    )


def rectangle(rows: Sequence[Sequence[int]], width: int) -> Int[Tensor, "K A"]:
    """Ragged rows, padded with 0."""
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


class Table(nn.Module):
    """The logits of every state."""

    def __init__(self, logits: Float[Tensor, "S V"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(logits.double().clone())


class TablePolicy(nn.Module):
    """A policy that looks its logits up. It scores rollouts of its own world, whose rows say in `episode` which
    trajectory they are. A critic, where there is one, is a number a state."""

    def __init__(
        self,
        world: World,
        logits: Float[Tensor, "S V"],
        *,
        value: Float[Tensor, "S"] | None = None,
        final_value: Float[Tensor, "K"] | None = None,
    ) -> None:
        super().__init__()
        self.world, self.model = world, Table(logits)
        self.value_head = None if value is None else Table(value)
        self.final_value = final_value

    @property
    def device(self) -> torch.device:
        return self.model.weight.device

    def evaluate(
        self,
        rollout: Rollout,
        *,
        with_entropy: bool = False,
        with_final_value: bool = False,
        kl_to: TablePolicy | None = None,
    ) -> Evaluation:
        """As `Policy.evaluate`, in float64."""
        state, token = self.world.state[rollout.episode], self.world.token[rollout.episode]
        logprob = self.model.weight.log_softmax(-1)[state]
        mass = logprob.exp()
        other = None if kl_to is None else kl_to.model.weight.detach().log_softmax(-1)[state]

        def kept(x: Tensor) -> Tensor:
            return torch.where(rollout.mask, x, 0.0)

        return Evaluation(
            logprob=kept(logprob.gather(-1, token[..., None])[..., 0]),
            entropy=kept(-(mass * logprob).sum(-1)) if with_entropy else None,
            value=None if self.value_head is None else kept(self.value_head.weight[state]),
            final_value=None if self.final_value is None else self.final_value[rollout.episode],
            kl=None if other is None else kept((mass * (logprob - other)).sum(-1)),
        )

    @torch.no_grad()
    def score(
        self,
        rollout: Rollout,
        *,
        microbatch_tokens: int = 0,
        with_final_value: bool = False,
        kl_to: TablePolicy | None = None,
    ) -> Evaluation:
        """As `Policy.score`."""
        return self.evaluate(rollout, with_final_value=with_final_value, kl_to=kl_to)

    def trajectories(self) -> Float[Tensor, "K"]:
        """The log-probability of every trajectory, given its prompt."""
        return self.evaluate(self.world.rollout(torch.arange(len(self.world.prompt)))).logprob.sum(1)
