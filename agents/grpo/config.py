"""GRPO's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.advantages import SCALES
from agents.kl import KINDS
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
    """Where the KL acts: `loss`, or `reward` (then per token, inside the returns that the group compares)."""
    kl_estimator: str = "weighted_k3"
    """In the loss: `weighted_k3` or `k2` (the reverse KL's gradient), `k3` (the forward KL's, as the paper)."""
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
        require(self.kl_in in ("loss", "reward"), f"agent.kl_in must be loss or reward, got {self.kl_in!r}")
        require(
            self.kl_estimator != "k1",
            "agent.kl_estimator must not be k1: its gradient in a loss is zero in expectation; "
            "choose weighted_k3 or k2, or agent.kl_in=reward",
        )
        require(
            self.kl_estimator in KINDS,
            f"agent.kl_estimator must be one of {', '.join(KINDS)}, got {self.kl_estimator!r}",
        )

    @property
    def critic(self) -> str:
        """There is none."""
        return "none"

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0
