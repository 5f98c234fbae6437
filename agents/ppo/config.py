"""PPO's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.kl import Controller, FixedKL, HalvingKL, HorizonKL, placed_estimator
from agents.optim import OptimConfig, require

CRITICS = ("shared", "separate")
CONTROLLERS = ("fixed", "horizon", "halving")


@dataclass
class PPOConfig:
    """Defaults suit a language model whose reward comes at the end of an episode of tens of tokens."""

    name: str = "ppo"
    prompts: int = 32
    """Problems per iteration."""
    group_size: int = 4
    """Completions per problem; PPO compares none of them, but they share the computation of their prompt."""
    gamma: float = 1.0
    lam: float = 1.0
    """Lambda of the generalized advantage estimate; 1 carries a reward at the end to every token undiminished."""
    whiten_advantages: bool = True
    """Zero mean and unit variance over the rollout's policy tokens."""
    objective: str = "clip"
    """`clip`, or `penalty`: the unclipped surrogate and a KL to the old policy (arXiv 1707.06347, equation 8)."""
    clip_low: float = 0.2
    """The ratio is clipped at 1 - clip_low ..."""
    clip_high: float = 0.2
    """... and 1 + clip_high."""
    penalty_coef: float = 1.0
    """With objective=penalty: first weight of the KL to the old policy, halved and doubled towards `penalty_target`."""
    penalty_target: float = 0.01
    """In nats per token."""
    critic: str = "shared"
    """`shared`: a value head on the policy's hidden states; `separate`: a second model of the same kind."""
    value_coef: float = 0.5
    value_loss: str = "squared"
    """`squared` or `huber`."""
    value_clip: float | None = None
    """Keep the value within this distance of the one at collection; null does not clip."""
    value_gradient: bool = True
    """With the shared critic: whether the value loss also trains the trunk."""
    entropy_coef: float = 0.0
    kl_coef: float = 0.0
    """Weight of the KL to the reference policy; 0 loads no reference."""
    kl_in: str = "reward"
    """Where it acts: `reward` (paid per token), `loss`, or `both` (only the exact one: each has a part of the
    gradient)."""
    kl_estimator: str | None = None
    """In the reward `k1`; in the loss `weighted_k3` (null), `k2`, `k3` (the forward KL's gradient) or `full` (exact,
    over the vocabulary; needs top_k=0 and top_p=1)."""
    reference_every: int | None = None
    """Iterations after which the reference becomes what the policy is; null: it stays as it was before training."""
    kl_controller: str = "fixed"
    """`fixed`, `horizon` (Ziegler et al.) or `halving` (the PPO paper's law): who changes `kl_coef`."""
    kl_target: float = 6.0
    """In nats per episode."""
    kl_horizon: float = 10_000
    """In episodes."""
    max_kl_old: float | None = None
    """End the update when a minibatch's KL to the old policy exceeds this (nats per token)."""
    max_kl_reference: float | None = None
    """The same for the KL to the reference policy; needs kl_coef > 0."""
    sampler_correction: float | None = None
    """Weigh each token's objective by exp(old - sampled log-probability), at most this: corrects for a sampler that
    computes in other numerics. null: leave it (float32 needs none; the metrics show `sampling/logprob_difference`)."""
    truncation: str = "bootstrap"
    """Where the environment truncates: `bootstrap` with V, or `terminal`."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            learning_rate=1e-5,
            critic_learning_rate=1e-4,
            warmup_steps=3,
            minibatch_rows=64,
            decay="linear",
            decay_share=0.5,
        )
    )

    def __post_init__(self) -> None:
        for name in ("prompts", "group_size"):
            require(getattr(self, name) >= 1, f"agent.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("gamma", "lam", "clip_low"):
            require(0 <= getattr(self, name) <= 1, f"agent.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("clip_high", "value_coef", "entropy_coef", "kl_coef", "penalty_coef"):
            require(getattr(self, name) >= 0, f"agent.{name} must be at least 0, got {getattr(self, name)}")
        for name in ("value_clip", "max_kl_old", "max_kl_reference"):
            x = getattr(self, name)
            require(x is None or x > 0, f"agent.{name} must be positive or null, got {x}")
        cap = self.sampler_correction
        require(cap is None or cap >= 1, f"agent.sampler_correction must be at least 1 or null, got {cap}")
        for name, known in (
            ("objective", ("clip", "penalty")),
            ("critic", CRITICS),
            ("value_loss", ("squared", "huber")),
            ("kl_controller", CONTROLLERS),
            ("truncation", ("bootstrap", "terminal")),
        ):
            x = getattr(self, name)
            require(x in known, f"agent.{name} must be one of {', '.join(known)}, got {x!r}")
        require(
            self.max_kl_reference is None or self.kl_coef > 0,
            f"agent.max_kl_reference={self.max_kl_reference} needs a reference policy: set agent.kl_coef above 0",
        )
        placed_estimator(self.kl_in, self.kl_estimator)
        every = self.reference_every
        require(every is None or every >= 1, f"agent.reference_every must be at least 1 or null, got {every}")
        require(
            every is None or self.kl_coef > 0,
            f"agent.reference_every={every} needs a reference policy: set agent.kl_coef above 0",
        )
        for name in ("kl_coef", "kl_target", "kl_horizon"):
            ok = self.kl_controller == "fixed" or getattr(self, name) > 0
            require(ok, f"agent.{name} must be positive to adapt (kl_controller), got {getattr(self, name)}")
        for name in ("penalty_coef", "penalty_target"):
            ok = self.objective == "clip" or getattr(self, name) > 0
            require(ok, f"agent.{name} must be positive to adapt (objective=penalty), got {getattr(self, name)}")

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def kl_kind(self) -> str:
        """The estimator, chosen or not."""
        return placed_estimator(self.kl_in, self.kl_estimator)

    def controller(self) -> Controller:
        """Who sets the weight of the KL to the reference."""
        if self.kl_controller == "horizon":
            return HorizonKL(self.kl_coef, self.kl_target, self.kl_horizon)
        return HalvingKL(self.kl_coef, self.kl_target) if self.kl_controller == "halving" else FixedKL(self.kl_coef)
