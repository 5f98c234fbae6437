"""PPO's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.credit import WHITENED, check_truncation
from agents.entropy import EntropyControl, check_entropy, entropy_control
from agents.kl import Controller, FixedKL, HalvingKL, HorizonKL, check_renewal, placed_estimator
from agents.optim import OptimConfig
from agents.require import require

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
    ratio_cap: float | None = None
    """Dual clip (arXiv 1912.09729): a bad token costs at most this many times its advantage, however much more likely
    it has become; above 1 + clip_high. null: no cap."""
    penalty_coef: float = 1.0
    """With objective=penalty: (first) weight of the KL to the old policy."""
    penalty_controller: str = "halving"
    """Who changes it: `halving` (the paper's law, between updates), `horizon` or `fixed`."""
    penalty_target: float = 0.01
    """In nats per token, from the policy that acted to what the update has made of it."""
    penalty_horizon: float = 10_000
    """In episodes, for `horizon`."""
    critic: str = "shared"
    """`shared`: a value head on the policy's hidden states; `separate`: a second model of the same kind."""
    value_coef: float = 0.5
    value_loss: str = "squared"
    """`squared` or `huber`."""
    value_clip: float | None = None
    """Keep the value within this distance of the one at collection; null does not clip."""
    value_gradient: bool = True
    """With the shared critic: whether the value loss also trains the trunk."""
    critic_warmup: int = 0
    """First iterations in which only the critic learns; the actor (with the shared critic: the trunk) stays as it is,
    and its own warm-up begins behind them."""
    normalize_values: bool = False
    """Let the critic learn targets of mean 0 and std 1 (running averages); `value_loss` and `value_clip` then count in
    stds, values and advantages in rewards as ever."""
    reward_clip: float | None = None
    """Keep what the environment pays within [-reward_clip, reward_clip], before penalty and KL come off."""
    whiten_rewards: str | None = None
    """After penalty and KL: `tokens` (mean and std over all policy tokens, mean put back) or `returns` (only divided
    by the returns' std); null: neither."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; with a target, where it begins."""
    entropy_target: float | None = None
    """In nats per token: the weight rises by `entropy_step` an iteration below it, falls above it, and acts only below
    (arXiv 2505.22312). null: the weight stays."""
    entropy_step: float = 0.005
    entropy_max: float = 1.0
    """The largest weight that it rises to."""
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
    """Completions that the budget cut: `bootstrap` with V where the environment truncates, `terminal`, `penalty`, or
    `mask`: see `agents.credit`."""
    truncation_penalty: float | None = None
    """With truncation=penalty: what a cut completion's last token is paid less."""
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
        for name, least in (("prompts", 1), ("group_size", 1), ("critic_warmup", 0)):
            require(getattr(self, name) >= least, f"agent.{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("gamma", "lam", "clip_low"):
            require(0 <= getattr(self, name) <= 1, f"agent.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("clip_high", "value_coef", "kl_coef", "penalty_coef"):
            require(getattr(self, name) >= 0, f"agent.{name} must be at least 0, got {getattr(self, name)}")
        for name in ("value_clip", "reward_clip", "max_kl_old", "max_kl_reference"):
            x = getattr(self, name)
            require(x is None or x > 0, f"agent.{name} must be positive or null, got {x}")
        cap = self.sampler_correction
        require(cap is None or cap >= 1, f"agent.sampler_correction must be at least 1 or null, got {cap}")
        for name, known in (
            ("objective", ("clip", "penalty")),
            ("critic", CRITICS),
            ("value_loss", ("squared", "huber")),
            ("kl_controller", CONTROLLERS),
            ("penalty_controller", CONTROLLERS),
            ("whiten_rewards", (None, *WHITENED)),
        ):
            x = getattr(self, name)
            names = ", ".join("null" if choice is None else choice for choice in known)
            require(x in known, f"agent.{name} must be one of {names}, got {x!r}")
        check_truncation(self.truncation, self.truncation_penalty)
        check_entropy(self.entropy_coef, self.entropy_target, self.entropy_step, self.entropy_max)
        self._check_combinations()

    def _check_combinations(self) -> None:
        cap, least = self.ratio_cap, 1 + self.clip_high
        require(cap is None or cap > least, f"agent.ratio_cap must be above 1 + clip_high = {least:g}, got {cap}")
        require(
            cap is None or self.objective == "clip",
            f"agent.ratio_cap must be null with agent.objective=penalty (which clips nothing), got {cap}",
        )
        require(
            self.penalty_controller == "halving" or self.objective == "penalty",
            f"agent.penalty_controller={self.penalty_controller} needs agent.objective=penalty, got {self.objective!r}",
        )
        require(
            self.critic_warmup == 0 or (self.value_coef > 0 and self.optim.critic_learning_rate != 0),
            f"agent.critic_warmup={self.critic_warmup} needs a critic that learns: agent.value_coef and "
            f"agent.optim.critic_learning_rate must be above 0, got {self.value_coef} and "
            f"{self.optim.critic_learning_rate}",
        )
        require(
            self.max_kl_reference is None or self.kl_coef > 0,
            f"agent.max_kl_reference={self.max_kl_reference} needs a reference policy: set agent.kl_coef above 0",
        )
        placed_estimator(self.kl_in, self.kl_estimator)
        check_renewal(self.reference_every, self.kl_coef)
        for name in ("kl_coef", "kl_target", "kl_horizon"):
            ok = self.kl_controller == "fixed" or getattr(self, name) > 0
            require(ok, f"agent.{name} must be positive to adapt (kl_controller), got {getattr(self, name)}")
        for name in ("penalty_coef", "penalty_target", "penalty_horizon"):
            ok = self.objective == "clip" or self.penalty_controller == "fixed" or getattr(self, name) > 0
            require(ok, f"agent.{name} must be positive to adapt (objective=penalty), got {getattr(self, name)}")
        rows = self.prompts * self.group_size
        for name, horizon in (("kl", self.kl_horizon), ("penalty", self.penalty_horizon)):
            ok = getattr(self, f"{name}_controller") != "horizon" or 5 * horizon > rows
            require(
                ok,
                f"agent.{name}_horizon must be more than a fifth of the {rows} completions an iteration (else the "
                f"weight would reach 0), got {horizon}",
            )

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def kl_kind(self) -> str:
        """The estimator, chosen or not."""
        return placed_estimator(self.kl_in, self.kl_estimator)

    def controller(self) -> Controller:
        """Who sets the weight of the KL to the reference."""
        return controller(self.kl_controller, self.kl_coef, self.kl_target, self.kl_horizon)

    def penalty(self) -> Controller | None:
        """Who sets the weight of the KL to the old policy; None where the objective is clipped instead."""
        if self.objective == "clip":
            return None
        return controller(self.penalty_controller, self.penalty_coef, self.penalty_target, self.penalty_horizon)

    def entropy(self) -> EntropyControl:
        """Who sets the weight of the entropy bonus."""
        return entropy_control(self.entropy_coef, self.entropy_target, step=self.entropy_step, most=self.entropy_max)


def controller(name: str, coefficient: float, target: float, horizon: float) -> Controller:
    """The record of that name."""
    if name == "horizon":
        return HorizonKL(coefficient, target, horizon)
    return HalvingKL(coefficient, target) if name == "halving" else FixedKL(coefficient)
