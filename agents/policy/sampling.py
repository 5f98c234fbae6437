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


def draw(
    logits: Float[Tensor, "R V"], uniform: Float[Tensor, "R"], greedy: bool
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"], Float[Tensor, "R"]]:
    """A token a row, its log-probability under `logits`, and the entropy (nats) of the distribution."""
    total = logits.logsumexp(-1)
    centred = logits - total[:, None]
    mass = centred.exp()
    entropy = entropy_of(mass, centred)
    if greedy:
        token = logits.argmax(-1)
    else:
        mass = mass.cumsum_(-1)
        total_mass = mass[:, -1]
        below = total_mass.nextafter(torch.zeros_like(total_mass))  # float32 rounds 1 - 2^-26 up to the total
        point = torch.minimum((uniform * total_mass.double()).float(), below)
        token = torch.searchsorted(mass, point[:, None], right=True)[:, 0]
    return token, centred.gather(1, token[:, None])[:, 0], entropy


def entropy_of(mass: Float[Tensor, "R V"], logprob: Float[Tensor, "R V"]) -> Float[Tensor, "R"]:
    """Entropy in nats; an excluded token (probability 0, log-probability -inf) contributes nothing."""
    return -(mass * logprob.clamp(min=torch.finfo(logprob.dtype).min)).sum(-1)


def uniforms(seed: int, episode: Int[Tensor, "R"], position: Int[Tensor, "R"]) -> Float[Tensor, "R"]:
    """One float64 in [0, 1) for each (seed, episode, position), equal on every device."""
    state = torch.full_like(episode, signed(seed))
    for key in (episode, position):
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
