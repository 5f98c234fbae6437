"""The distribution that is sampled from, and keyed sampling from it.

Randomness is a counter, not a stream: the uniform that chooses a token is a hash of (seed, episode, position), so the
same episode is sampled alone, among 64 rows, or after a resume. A token is the inverse of the cumulative distribution
at that uniform. The hash is SplitMix64's finalizer (Steele, Lea, Flood 2014), chained over the three keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 256
"""Tokens whose probabilities are added up before a point is looked for."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature=0` is greedy; `top_k=0` and `top_p=1` restrict nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"sampling.temperature must be at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"sampling.top_k must be at least 0 (0: off), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p must be in (0, 1], got {self.top_p}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def whole(self) -> bool:
        """Whether every token may be drawn, each as its tempered logit says."""
        return self.temperature > 0 and self.top_k == 0 and self.top_p == 1

    def logits(self, raw: Float[Tensor, "R V"], chosen: Int[Tensor, "R"] | None = None) -> Float[Tensor, "R V"]:
        """Logits of the distribution that is sampled from, in float32; excluded tokens are -inf.

        `chosen` is never excluded: a token that top-k or top-p admitted when it was sampled keeps a finite
        log-probability after an update has moved it out. Greedy reports the untempered distribution.
        """
        z = raw.float()
        if self.temperature not in (0, 1):
            z = z / self.temperature
        if self.top_k == 0 and self.top_p == 1:
            return z
        excluded = self._excluded(z.detach())
        if chosen is not None:
            excluded = excluded.scatter(1, chosen[:, None], False)
        return z.masked_fill(excluded, float("-inf"))

    def _excluded(self, z: Tensor) -> Tensor:
        """Top-k first, then the smallest set of the most probable tokens whose mass reaches `top_p`."""
        ordered, order = z.sort(-1, descending=True)
        rank = torch.arange(z.shape[-1], device=z.device)
        out = (rank >= self.top_k) if self.top_k else torch.zeros_like(rank, dtype=torch.bool)
        mass = ordered.masked_fill(out, float("-inf")).softmax(-1).cumsum(-1)
        out = out | ((mass - mass.diff(dim=-1, prepend=torch.zeros_like(mass[:, :1]))) >= self.top_p)
        out[:, 0] = False
        return torch.zeros_like(out).scatter(1, order, out)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token a row and what is known of it."""

    token: Int[Tensor, "R"]
    logprob: Float[Tensor, "R"]
    entropy: Float[Tensor, "R"] | None
    """Nats, of the whole distribution; None unless it was asked for: a second pass over all tokens."""


def draw(
    logits: Float[Tensor, "R V"], uniform: Float[Tensor, "R"], *, greedy: bool = False, with_entropy: bool = False
) -> Drawn:
    """A token a row: the inverse of the cumulative distribution at `uniform`, or the most probable one if `greedy`.

    Two levels, blocks of tokens and tokens of a block: the probabilities are read once, added up in blocks, and only
    the block that holds the point is looked at again.
    """
    top = logits.amax(-1, keepdim=True)
    centred = logits - top
    mass = centred.exp() if with_entropy else centred.exp_()
    upto = block_sums(mass).double().cumsum(-1)
    total = upto[:, -1:]
    token = logits.argmax(-1, keepdim=True) if greedy else invert(mass, upto, uniform[:, None].double() * total)
    log_total = total.log()
    logprob = (logits.gather(1, token) - top).double() - log_total
    entropy = None
    if with_entropy:
        excluded = centred.clamp(min=torch.finfo(centred.dtype).min)  # 0 times -inf would be NaN
        entropy = (log_total[:, 0] - (mass * excluded).sum(-1) / total[:, 0]).float()
    return Drawn(token[:, 0], logprob[:, 0].float(), entropy)


def block_sums(mass: Float[Tensor, "R V"]) -> Float[Tensor, "R blocks"]:
    """Sums over consecutive blocks of `BLOCK` tokens; the last one may be shorter."""
    whole = mass.shape[1] // BLOCK * BLOCK
    sums = mass[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1) if whole else mass[:, :0]
    return sums if whole == mass.shape[1] else torch.cat([sums, mass[:, whole:].sum(-1, keepdim=True)], 1)


def invert(
    mass: Float[Tensor, "R V"], upto: Float[Tensor, "R blocks"], point: Float[Tensor, "R 1"]
) -> Int[Tensor, "R 1"]:
    """The token at which the cumulative mass first exceeds `point`; never one without mass."""
    block = torch.searchsorted(upto, below(point, upto[:, -1:]), right=True)
    before = upto.gather(1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    column = block * BLOCK + torch.arange(BLOCK, device=mass.device)
    last = mass.shape[1] - 1
    inside = mass.gather(1, column.clamp(max=last)).masked_fill(column > last, 0.0).double().cumsum(-1)
    return block * BLOCK + torch.searchsorted(inside, below(point - before, inside[:, -1:]), right=True)


def below(point: Tensor, total: Tensor) -> Tensor:
    """`point`, but less than `total`: sums that were rounded differently may meet."""
    return torch.minimum(point, total.nextafter(torch.zeros_like(total)))


def entropy_of(mass: Float[Tensor, "R V"], logprob: Float[Tensor, "R V"]) -> Float[Tensor, "R"]:
    """Entropy in nats; an excluded token (probability 0, log-probability -inf) contributes nothing."""
    return -(mass * logprob.clamp(min=torch.finfo(logprob.dtype).min)).sum(-1)


def uniforms(seed: int | Int[Tensor, ""], episode: Int[Tensor, "R"], position: Int[Tensor, "R"]) -> Float[Tensor, "R"]:
    """One float64 in [0, 1) for each (seed, episode, position), equal on every device.

    Every key is scrambled before the next one is added: were the seed not, seed 1 would draw for episode k what seed 0
    draws for episode k + 1, and no two runs would be independent.
    """
    state = torch.zeros_like(episode)
    for key in (signed(seed) if isinstance(seed, int) else seed, episode, position):
        state = scramble(state + signed(0x9E3779B97F4A7C15) + key)
    return shift_right(state, 11).double() * 2.0**-53


def scramble(x: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
    """SplitMix64's finalizer on int64 bit patterns (multiplication wraps)."""
    x = (x ^ shift_right(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ shift_right(x, 27)) * signed(0x94D049BB133111EB)
    return x ^ shift_right(x, 31)


def shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def signed(bits: int) -> int:
    """The int64 with the low 64 bits of `bits`.

    >>> signed(2**64 - 1)
    -1
    """
    return (bits + 2**63) % 2**64 - 2**63
