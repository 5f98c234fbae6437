"""TRPO's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.credit import check_truncation
from agents.optim import OptimConfig
from agents.require import require

CRITICS = ("shared", "separate")


@dataclass
class TRPOConfig:
    """The actor takes one step a rollout, as long as `max_kl` allows; `optim` is the critic's."""

    name: str = "trpo"
    prompts: int = 32
    """Problems per iteration."""
    group_size: int = 4
    """Completions per problem; none of them is compared, but they share the computation of their prompt."""
    gamma: float = 1.0
    lam: float = 1.0
    """Lambda of the generalized advantage estimate."""
    whiten_advantages: bool = True
    """Zero mean and unit variance over the rollout's policy tokens. The length of a step does not depend on it."""
    max_kl: float = 0.01
    """The trust region: the mean KL of the old policy to the new one, in nats per token."""
    damping: float = 0.1
    """Added to the Fisher matrix's diagonal, as a share of the curvature along the gradient."""
    conjugate_gradient_steps: int = 10
    """At most; each costs two gradients."""
    conjugate_gradient_tolerance: float = 1e-3
    """Share of the gradient that may be left unexplained."""
    fisher_share: float = 1.0
    """Share of the problems on which the curvature is measured; the line search always sees all."""
    line_search_steps: int = 10
    """Lengths to try, the longest first."""
    line_search_shrink: float = 0.8
    """Each is this times the one before."""
    critic: str = "shared"
    """`shared`: a value head on the policy's hidden states, which the value loss does not train; `separate`: a second
    model of the same kind."""
    kl_coef: float = 0.0
    """Weight of the KL to the reference policy, paid per token in the reward; 0 loads no reference."""
    truncation: str = "bootstrap"
    """Completions that the budget cut: `bootstrap` with V where the environment truncates, `terminal`, `penalty`, or
    `mask`: see `agents.credit`."""
    truncation_penalty: float | None = None
    """With truncation=penalty: what a cut completion's last token is paid less."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            learning_rate=1e-4, warmup_steps=3, epochs=2, minibatch_rows=64, decay="linear", decay_share=0.5
        )
    )
    """How the critic learns; `microbatch_tokens` and `aggregation` are the actor's, too."""

    def __post_init__(self) -> None:
        for name in ("prompts", "group_size", "conjugate_gradient_steps", "line_search_steps"):
            require(getattr(self, name) >= 1, f"agent.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("gamma", "lam"):
            require(0 <= getattr(self, name) <= 1, f"agent.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("damping", "conjugate_gradient_tolerance", "kl_coef"):
            require(getattr(self, name) >= 0, f"agent.{name} must be at least 0, got {getattr(self, name)}")
        require(self.max_kl > 0, f"agent.max_kl must be positive, got {self.max_kl}")
        share, shrink = self.fisher_share, self.line_search_shrink
        require(0 < share <= 1, f"agent.fisher_share must be in (0, 1], got {share}")
        require(0 < shrink < 1, f"agent.line_search_shrink must be in (0, 1), got {shrink}")
        require(self.critic in CRITICS, f"agent.critic must be one of {', '.join(CRITICS)}, got {self.critic!r}")
        check_truncation(self.truncation, self.truncation_penalty)

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def reference_every(self) -> int | None:
        """The reference stays as it was before training."""
        return None

    @property
    def kl_in(self) -> str:
        """The step has a KL of its own, to the old policy; that to the reference is paid."""
        return "reward"

    @property
    def kl_kind(self) -> str:
        """What is paid in the reward."""
        return "k1"

    @property
    def value_gradient(self) -> bool:
        """The trunk is moved by the trust region's step alone: a gradient of the value's would leave it unasked."""
        return False
