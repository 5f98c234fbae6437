"""The batched policy core: `act` proposes tokens, `evaluate` scores the same tokens with gradient.

Both compute the log-probability under the distribution that is sampled from (temperature, top-k and top-p included), so
the first ratio of an update is 1 up to the number format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.policy.attention import CachedView
from agents.policy.cache import SlotCache
from agents.policy.head import score_tokens
from agents.policy.model import LanguageModel
from agents.policy.packing import distinct_prompts, microbatches, pack, ramp
from agents.policy.sampling import Sampling, draw, uniforms
from agents.policy.value import ValueHead
from agents.rollout import Rollout

PREFILL_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Action:
    """A proposal: up to m tokens for each of the environment's N rows."""

    token: np.ndarray
    """`[N, m]` int64; what lies beyond `length` is 0."""
    length: np.ndarray
    """`[N]` int64, 0 for rows that were not asked."""
    logprob: np.ndarray
    """`[N, m]` float32."""
    entropy: np.ndarray
    """`[N, m]` float32, nats: of the distribution that each token was drawn from."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a Rollout's policy tokens, 0 elsewhere."""

    logprob: Float[Tensor, "N A"]
    entropy: Float[Tensor, "N A"] | None = None
    """Nats; computed only where its gradient is wanted (the sampler has recorded its value)."""
    value: Float[Tensor, "N A"] | None = None
    """V of the state in which each token was chosen; None without a critic."""
    final_value: Float[Tensor, "N"] | None = None
    """V after the last token."""


class Policy(nn.Module):
    """A causal language model that acts on an environment's observations, optionally with a critic.

    A `value_head` reads the hidden states of `critic_model`, or where there is none the policy's own (a shared trunk,
    which the value loss trains only with `value_gradient`).
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        num_actions: int,
        sampling: Sampling | None = None,
        critic_model: LanguageModel | None = None,
        value_head: ValueHead | None = None,
        value_gradient: bool = True,
    ) -> None:
        super().__init__()
        if num_actions > model.vocabulary:
            raise ValueError(
                f"the tokenizer has {num_actions} tokens but the model's head only {model.vocabulary}: "
                "they do not belong together"
            )
        self.model = model
        self.num_actions = num_actions
        self.sampling = sampling or Sampling()
        self.critic_model = critic_model
        self.value_head = value_head
        self.value_gradient = value_gradient
        self.seed = 0
        self._cache: SlotCache | None = None

    @property
    def device(self) -> torch.device:
        return self.model.weight.device

    def reset(self, *, seed: int | None = None) -> None:
        """Forget all cached states (the weights have changed) and, when given, key the sampling with `seed`."""
        if seed is not None:
            self.seed = seed
        if self._cache is not None:
            self._cache.clear()

    def head(self, hidden: Float[Tensor, "R H"]) -> Float[Tensor, "R V"]:
        """Logits over the tokenizer's tokens; rows that pad the head to a round size are no actions."""
        return self.model.head(hidden)[:, : self.num_actions]

    @torch.no_grad()
    def act(
        self,
        observation: Mapping[str, np.ndarray],
        *,
        episode: np.ndarray,
        live: np.ndarray | None = None,
        max_tokens: int = 1,
        end_ids: Sequence[int] = (),
        sampling: Sampling | None = None,
    ) -> Action:
        """Propose up to `max_tokens` tokens for each row that is `live` (default: those with budget left).

        A row's proposal ends early at one of `end_ids` or at its remaining budget. `episode [N]` keys the sampling
        together with the seed and the token's position, so neither the other rows nor `max_tokens` change a token.
        """
        sampling = sampling or self.sampling
        tokens, length = observation["tokens"], observation["length"][:, 0].astype(np.int64)
        budget = np.minimum(observation["remaining"][:, 0], max_tokens)
        rows = np.flatnonzero(budget > 0 if live is None else live & (budget > 0))
        token = np.zeros((len(length), max_tokens), np.int64)
        logprob, entropy = np.zeros((2, len(length), max_tokens), np.float32)
        count = np.zeros(len(length), np.int64)
        if not len(rows):
            return Action(token, count, logprob, entropy)
        reader = self._reader(tokens)
        rows, state = reader.read(length, rows)
        for column in range(max_tokens):
            position = length[rows] + column
            chosen = self._choose(state, episode[rows], position, sampling)
            token[rows, column], logprob[rows, column], entropy[rows, column] = chosen
            count[rows] = column + 1
            going = ~np.isin(token[rows, column], list(end_ids)) & (count[rows] < budget[rows])
            if column + 1 == max_tokens or not going.any():
                break
            rows, state = reader.append(rows[going], position[going], token[rows[going], column])
        return Action(token, count, logprob, entropy)

    def evaluate(self, rollout: Rollout, *, with_entropy: bool = False, with_final_value: bool = False) -> Evaluation:
        """Score the policy tokens of `rollout`'s rows, teacher-forced, with gradient (unless torch's is off)."""
        with_final_value = with_final_value and self.value_head is not None
        places = pack(rollout, with_last=with_final_value or not self.model.packed).to(self.device)

        def states(model: LanguageModel) -> Tensor:
            if model.packed:
                return model.states(places.tokens, places.position, places.view)
            rectangle = model.padded_states(rollout.tokens.to(self.device), rollout.length.to(self.device))
            return rectangle.flatten(0, 1)[places.padded(rollout.tokens.shape[1])]

        hidden = states(self.model)
        logprob, entropy = score_tokens(
            self.head, hidden[places.predict], places.target, self.sampling, with_entropy=with_entropy
        )
        value = final = None
        if self.value_head is not None:
            seen = hidden if self.critic_model is None else states(self.critic_model)
            if self.critic_model is None and not self.value_gradient:
                seen = seen.detach()
            value = self.value_head(seen[places.predict])
            final = self.value_head(seen[places.last]) if places.last is not None else None

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(rollout.mask.numel()).index_put((places.cell,), x).view(rollout.mask.shape)

        entropy, value = (None if x is None else spread(x) for x in (entropy, value))
        return Evaluation(spread(logprob), entropy, value, final)

    @torch.no_grad()
    def score(self, rollout: Rollout, *, microbatch_tokens: int, with_final_value: bool = False) -> Evaluation:
        """`evaluate` without gradient, a microbatch at a time; results on the CPU in the order of the rows."""
        order, parts = [], []
        for rows in microbatches(rollout, microbatch_tokens):
            order.append(rows)
            parts.append(self.evaluate(rollout[rows], with_final_value=with_final_value))
        back = torch.cat(order).argsort()

        def join(name: str) -> Tensor | None:
            pieces = [getattr(part, name) for part in parts]
            return None if pieces[0] is None else torch.cat(pieces)[back.to(pieces[0].device)].cpu()

        logprob = join("logprob")
        assert logprob is not None
        return Evaluation(logprob, None, join("value"), join("final_value"))

    def _choose(
        self, state: Tensor, episode: np.ndarray, position: np.ndarray, sampling: Sampling
    ) -> tuple[np.ndarray, ...]:
        keys = (torch.from_numpy(x.astype(np.int64)).to(state.device) for x in (episode, position))
        uniform = uniforms(self.seed, *keys)
        drawn = draw(sampling.logits(self.head(state)), uniform, sampling.greedy)
        return tuple(x.cpu().numpy() for x in drawn)

    def _reader(self, tokens: np.ndarray) -> CachedReader | PaddedReader:
        if not self.model.packed:
            return PaddedReader(self.model, tokens)
        num_rows, num_columns = tokens.shape
        cache = self._cache
        if cache is None or cache.num_rows != num_rows or cache.num_columns != num_columns:
            cache = SlotCache(num_rows, num_columns, self.model.cache_shape, self.model.weight.detach())
            self._cache = cache
        return CachedReader(self.model, cache, tokens)


class CachedReader:
    """Feeds the tokens that the cache does not hold yet; returns rows and the hidden state after each one's last."""

    def __init__(self, model: LanguageModel, cache: SlotCache, tokens: np.ndarray) -> None:
        self.model, self.cache, self.tokens = model, cache, tokens

    def read(self, length: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Bring `rows` up to their observations. Rows that start with the same tokens are computed once."""
        cache = self.cache
        cache.agree(self.tokens, length, rows)
        fresh = rows[cache.held[rows] == 0]
        owner, first = distinct_prompts(self.tokens[fresh], length[fresh])
        feed = np.concatenate([fresh[first], rows[cache.held[rows] > 0]])
        state: dict[int, Tensor] = {}
        for part in split_by_total(feed, (length - cache.held)[feed], PREFILL_TOKENS):
            count = (length - cache.held)[part]
            column = ramp(count) + np.repeat(cache.held[part], count)
            part_rows, hidden = self._feed(part, np.repeat(part, count), column)
            state.update(zip(part_rows.tolist(), hidden, strict=True))
        if len(fresh) > len(first):
            source, sibling = fresh[first][owner], fresh
            other = source != sibling
            self._share(source[other], sibling[other], length)
            state.update((int(t), state[int(s)]) for s, t in zip(source[other], sibling[other], strict=True))
        return rows, torch.stack([state[int(row)] for row in rows])

    def append(self, rows: np.ndarray, column: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Feed one more token to each row, at `column`."""
        return self._feed(rows, rows, column, token)

    def _share(self, source: np.ndarray, sibling: np.ndarray, length: np.ndarray) -> None:
        self.cache.copy_prefix(source, sibling, int(length[source].max()))
        count = length[sibling]
        flat_rows, columns = np.repeat(sibling, count), ramp(count)
        self.cache.remember(flat_rows, columns, self.tokens[flat_rows, columns])

    def _feed(
        self, rows: np.ndarray, flat_rows: np.ndarray, column: np.ndarray, token: np.ndarray | None = None
    ) -> tuple[np.ndarray, Tensor]:
        """One forward over flat `(row, column)` tokens; rows come back ordered by slot."""
        slot = self.cache.bring_forward(rows)
        order = np.argsort(slot)
        by_slot = np.argsort(self.cache.slot[flat_rows], kind="stable")
        flat_rows, column = flat_rows[by_slot], column[by_slot]
        token = self.tokens[flat_rows, column].astype(np.int64) if token is None else token[by_slot]
        count = np.bincount(self.cache.slot[flat_rows], minlength=len(rows))
        start = np.cumsum(count) - count
        width = ramp(np.array([count.max()]))
        inside = width < count[:, None]
        query = np.where(inside, start[:, None] + width, start[:, None])
        position = torch.from_numpy(column)
        arrays = (token, self.cache.slot[flat_rows], column, query, np.where(inside, column[query], 0))
        device = self.cache.data.device
        ids, slots, positions, queries, query_positions = (torch.from_numpy(a).to(device) for a in arrays)
        view = CachedView(
            cache=self.cache.data,
            slot=slots,
            position=positions,
            query=queries,
            query_position=query_positions,
            output=torch.from_numpy(np.repeat(np.arange(len(rows)) * len(width), count) + ramp(count)).to(device),
            num_keys=min(-(-(int(position.max()) + 1) // 32) * 32, self.cache.num_columns),
        )
        hidden = self.model.states(ids, positions, view)
        self.cache.remember(flat_rows, column, token)
        return rows[order], hidden[torch.from_numpy(np.cumsum(count) - 1).to(device)]


class PaddedReader:
    """The same two verbs for models without the packed path: every call computes the rows from their start."""

    def __init__(self, model: LanguageModel, tokens: np.ndarray) -> None:
        self.model, self.tokens = model, tokens.astype(np.int64)
        self.length = np.zeros(len(tokens), np.int64)

    def read(self, length: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Hidden states after each row's last token."""
        self.length[rows] = length[rows]
        device = self.model.weight.device
        width = int(self.length[rows].max())
        tokens = torch.from_numpy(self.tokens[rows, :width]).to(device)
        lengths = torch.from_numpy(self.length[rows]).to(device)
        states = self.model.padded_states(tokens, lengths)
        return rows, states[torch.arange(len(rows), device=device), lengths - 1]

    def append(self, rows: np.ndarray, column: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """One more token for each row."""
        self.tokens[rows, column] = token
        self.length[rows] = column + 1
        return self.read(self.length, rows)


def split_by_total(items: np.ndarray, size: np.ndarray, most: int) -> list[np.ndarray]:
    """Consecutive parts of `items` whose sizes add up to at most `most` (a single larger one stands alone).

    >>> [part.tolist() for part in split_by_total(np.arange(4), np.array([3, 3, 9, 1]), 6)]
    [[0, 1], [2], [3]]
    """
    parts: list[list[int]] = []
    total = most + 1
    for item, n in zip(items, size, strict=True):
        if total + n > most:
            parts.append([])
            total = 0
        parts[-1].append(item)
        total += n
    return [np.array(part) for part in parts]
