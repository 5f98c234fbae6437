"""GRPO's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.advantages import SCALES
from agents.kl import placed_estimator
from agents.optim import OptimConfig, require


@dataclass
class GRPOConfig:
    """Defaults are the plain algorithm with one update per rollout."""

    name: str = "grpo"
    prompts: int = 32
    """Problems per iteration: many small groups learn faster here than few large ones."""
    group_size: int = 6
    """Completions per problem."""
    scale_advantages: str = "group"
    """Divide by the std of the `group`, of the `batch`, or not at all (`none`, as Dr. GRPO)."""
    clip_low: float = 0.2
    """The ratio is clipped at 1 - clip_low ..."""
    clip_high: float = 0.2
    """... and 1 + clip_high."""
    sampler_correction: float | None = None
    """Weigh each token's objective by exp(old - sampled log-probability), at most this: corrects for a sampler that
    computes in other numerics. null: leave it (float32 needs none; the metrics show `sampling/logprob_difference`)."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus; above 0 every row is computed, also those of groups without variance."""
    kl_coef: float = 0.0
    """Weight of the KL to the reference policy; 0 loads no reference."""
    kl_in: str = "loss"
    """Where the KL acts: `loss`, `reward` (then per token, inside the returns that the group compares), or `both` (only
    the exact one: each has a part of the gradient)."""
    kl_estimator: str | None = None
    """In the loss: `weighted_k3` (null), `k2`, `full` (exact, over the vocabulary; needs top_k=0 and top_p=1), all of
    the reverse KL's gradient, or `k3` (the forward KL's, as the paper); in the reward `k1`."""
    reference_every: int | None = None
    """Iterations after which the reference becomes what the policy is; null: it stays as it was before training."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(learning_rate=1.5e-5, warmup_steps=3, decay="linear", decay_share=0.5)
    )

    def __post_init__(self) -> None:
        require(self.prompts >= 1, f"agent.prompts must be at least 1, got {self.prompts}")
        require(
            self.group_size >= 2,
            f"agent.group_size must be at least 2 (a completion is compared with its group), got {self.group_size}",
        )
        require(
            self.scale_advantages in SCALES,
            f"agent.scale_advantages must be one of {', '.join(SCALES)}, got {self.scale_advantages!r}",
        )
        cap = self.sampler_correction
        require(cap is None or cap >= 1, f"agent.sampler_correction must be at least 1 or null, got {cap}")
        require(0 <= self.clip_low <= 1, f"agent.clip_low must be in [0, 1], got {self.clip_low}")
        require(self.clip_high >= 0, f"agent.clip_high must be at least 0, got {self.clip_high}")
        for name in ("kl_coef", "entropy_coef"):
            require(getattr(self, name) >= 0, f"agent.{name} must be at least 0, got {getattr(self, name)}")
        placed_estimator(self.kl_in, self.kl_estimator)
        every = self.reference_every
        require(every is None or every >= 1, f"agent.reference_every must be at least 1 or null, got {every}")
        require(
            every is None or self.kl_coef > 0,
            f"agent.reference_every={every} needs a reference policy: set agent.kl_coef above 0",
        )

    @property
    def critic(self) -> str:
        """There is none."""
        return "none"

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def kl_kind(self) -> str:
        """The estimator, chosen or not."""
        return placed_estimator(self.kl_in, self.kl_estimator)
