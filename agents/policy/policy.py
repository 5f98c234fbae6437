"""The batched policy core: `act` proposes tokens, `evaluate` scores the same tokens with gradient.

Both compute the log-probability under the distribution that is sampled from (temperature, top-k and top-p included), so
the first ratio of an update is 1 up to the number format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from agents.policy import kernels
from agents.policy.cache import SlotCache
from agents.policy.decode import Graphs, Pace, decode
from agents.policy.head import score_tokens
from agents.policy.model import LanguageModel
from agents.policy.packing import microbatches, pack, ramp
from agents.policy.proposal import Action, Proposals
from agents.policy.reading import CachedReader, PaddedReader
from agents.policy.sampling import Drawn, Sampling, draw, signed, uniforms
from agents.policy.value import ValueHead
from agents.policy.vocabulary_kl import vocabulary_kl
from agents.rollout import Rollout


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
    kl: Float[Tensor, "N A"] | None = None
    """Exact KL to another policy in the state in which each token was chosen, in nats; None unless one was given."""


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
        self.pace: Pace | None = None
        """None: what suits the device."""
        self._cache: SlotCache | None = None
        self._proposals: Proposals | None = None
        self._graphs = Graphs()

    @property
    def device(self) -> torch.device:
        return self.model.weight.device

    def reset(self, *, seed: int | None = None) -> None:
        """Forget all cached states (the weights have changed) and, when given, key the sampling with `seed`."""
        if seed is not None:
            self.seed = seed
        self.model.release()
        if self._cache is not None:
            self._cache.clear()

    def head(self, hidden: Float[Tensor, "R H"]) -> Float[Tensor, "R V"]:
        """Logits over the tokenizer's tokens; rows that pad the head to a round size are no actions."""
        logits = self.model.head(hidden)
        return logits if logits.shape[1] == self.num_actions else logits[:, : self.num_actions]

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
        with_entropy: bool = False,
    ) -> Action:
        """Propose up to `max_tokens` tokens for each row that is `live` (default: those with budget left).

        A row's proposal ends early at one of `end_ids` or at its remaining budget. `episode [N]` keys the sampling
        together with the seed and the token's position, so neither the other rows nor `max_tokens` change a token.
        Raises `ValueError` for `max_tokens` below 1, which would go on for ever, and where an observation has no room.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        sampling = sampling or self.sampling
        tokens, length = observation["tokens"], observation["length"][:, 0].astype(np.int64)
        budget = np.minimum(observation["remaining"][:, 0], max_tokens)
        rows = np.flatnonzero(budget > 0 if live is None else live & (budget > 0))
        check_room(tokens.shape[1], length[rows] + budget[rows])
        if not len(rows):
            nothing = np.zeros((len(length), max_tokens), np.float32)
            count = np.zeros(len(length), np.int64)
            return Action(nothing.astype(np.int64), count, nothing, nothing if with_entropy else None)
        self.model.prepack()
        reader, proposals = self._reader(tokens), self._under_way(len(length), max_tokens)
        state = reader.read(length, rows)
        order = reader.arrange(rows)
        rows = rows[order]
        proposals.begin(length[rows], budget[rows], episode[rows], seed=signed(self.seed), end_ids=end_ids)
        choose = partial(self._choose, sampling=sampling, with_entropy=with_entropy)
        proposals.take(choose(state[torch.from_numpy(order).to(state.device)], proposals, len(rows)))
        pace = self.pace or Pace.of(self.device)
        if not self.model.packed:
            pace = Pace(pace.check_every)
        decode(reader, proposals, rows, choose, pace, self._graphs, (sampling, with_entropy))
        action = proposals.result(rows, len(length), with_entropy)
        fed = np.maximum(action.length - 1, 0)[rows]
        flat_rows, column = np.repeat(rows, fed), ramp(fed)
        reader.committed(flat_rows, length[flat_rows] + column, action.token[flat_rows, column])
        return action

    def evaluate(
        self,
        rollout: Rollout,
        *,
        with_entropy: bool = False,
        with_final_value: bool = False,
        kl_to: Policy | None = None,
    ) -> Evaluation:
        """Score the policy tokens of `rollout`'s rows, teacher-forced, with gradient (unless torch's is off).

        `kl_to` asks for the exact KL to that policy, which gets no gradient; it costs a forward pass of it. Raises
        `ValueError` for it under top-k or top-p.
        """
        if torch.is_grad_enabled():
            self.model.release()
        with_final_value = with_final_value and self.value_head is not None
        places = pack(rollout, with_last=with_final_value or not self.model.packed).to(self.device)

        def states(model: LanguageModel) -> Tensor:
            if model.packed:
                return model.states(places.tokens, places.position, places.view)
            rectangle = model.padded_states(rollout.tokens.to(self.device), rollout.length.to(self.device))
            return rectangle.flatten(0, 1)[places.padded(rollout.tokens.shape[1])]

        hidden = states(self.model)
        logprob, entropy = score_tokens(
            self.head,
            hidden[places.predict],
            places.target,
            self.sampling,
            weights=self.model.head_weights,
            with_entropy=with_entropy,
        )
        kl = None
        if kl_to is not None:
            with torch.no_grad():
                other = states(kl_to.model)[places.predict]
            kl = vocabulary_kl(
                self.head, hidden[places.predict], kl_to.head, other, self.sampling, weights=self.model.head_weights
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

        entropy, value, kl = (None if x is None else spread(x) for x in (entropy, value, kl))
        return Evaluation(spread(logprob), entropy, value, final, kl)

    @torch.no_grad()
    def score(
        self,
        rollout: Rollout,
        *,
        microbatch_tokens: int,
        with_final_value: bool = False,
        kl_to: Policy | None = None,
    ) -> Evaluation:
        """`evaluate` without gradient, a microbatch at a time; results on the CPU in the order of the rows."""
        order, parts = [], []
        for rows in microbatches(rollout, microbatch_tokens):
            order.append(rows)
            parts.append(self.evaluate(rollout[rows], with_final_value=with_final_value, kl_to=kl_to))
        back = torch.cat(order).argsort()

        def join(name: str) -> Tensor | None:
            pieces = [getattr(part, name) for part in parts]
            return None if pieces[0] is None else torch.cat(pieces)[back.to(pieces[0].device)].cpu()

        logprob = join("logprob")
        assert logprob is not None
        return Evaluation(logprob, None, join("value"), join("final_value"), join("kl"))

    def _choose(
        self, state: Tensor, proposals: Proposals, num_rows: int, *, sampling: Sampling, with_entropy: bool
    ) -> Drawn:
        uniform = uniforms(proposals.seed, proposals.episode[:num_rows], proposals.position[:num_rows] + 1)
        raw = self.head(state)
        if sampling.whole and not with_entropy and kernels.suit(raw):
            return Drawn(*kernels.draw(raw, uniform, sampling.temperature), None)
        return draw(sampling.logits(raw), uniform, greedy=sampling.greedy, with_entropy=with_entropy)

    def _under_way(self, num_rows: int, max_tokens: int) -> Proposals:
        known = self._proposals
        shape = (num_rows, max_tokens, self.device)
        if known is None or (known.spare, known.max_tokens, known.token.device) != shape:
            known = self._proposals = Proposals(num_rows, max_tokens, self.num_actions, self.device)
            self._graphs = Graphs()
        return known

    def _reader(self, tokens: np.ndarray) -> CachedReader | PaddedReader:
        if not self.model.packed:
            return PaddedReader(self.model, tokens)
        num_rows, num_columns = tokens.shape
        cache = self._cache
        shape = (num_rows, num_columns, self.device, self.model.weight.dtype)
        if cache is None or (cache.num_rows, cache.num_columns, cache.data.device, cache.data.dtype) != shape:
            self._graphs = Graphs()
            cache = self._cache = None  # before the new one: there need not be room for two
            cache = self._cache = SlotCache(num_rows, num_columns, self.model.cache_shape, self.model.weight.detach())
        return CachedReader(self.model, cache, tokens)


def check_room(width: int, needed: Int[np.ndarray, "R"]) -> None:
    """Raise `ValueError` where rows may write behind the last column of their observation."""
    if needed.size and needed.max() > width:
        raise ValueError(
            f"an observation must have room for what remains of it: it has {width} columns, a row needs {needed.max()}"
        )
