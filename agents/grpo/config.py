"""GRPO's settings, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.advantages import BASELINES, SCALES
from agents.entropy import EntropyControl, check_entropy, entropy_control
from agents.kl import check_renewal, placed_estimator
from agents.losses import OBJECTIVES, RATIOS
from agents.optim import OptimConfig
from agents.require import require

CHOICES = {
    "baseline": BASELINES,
    "scale_advantages": SCALES,
    "returns": ("episode", "to_go"),
    "objective": OBJECTIVES,
    "ratio": RATIOS,
    "truncation": ("keep", "mask"),
}


@dataclass
class GRPOConfig:
    """Defaults are the plain algorithm with one update per rollout."""

    name: str = "grpo"
    prompts: int = 32
    """Problems per iteration: many small groups learn faster here than few large ones."""
    group_size: int = 6
    """Completions per problem."""
    resample_rounds: int = 0
    """Dynamic sampling (DAPO): replace groups without variance by those of further problems, in at most this many
    further rounds of generation; 0: learn from what the first one gave."""
    resample_ignores: list[str] = field(default_factory=list)
    """Parts of the reward in which a group need not differ to be kept, such as `[soft_overlong]`."""
    baseline: str = "group"
    """What a return is compared with: the mean of its `group`, of the others in it (`leave_one_out`, RLOO), of the
    `batch`, or `none`."""
    scale_advantages: str = "group"
    """Divide by the std of the `group`, of the `batch`, or not at all (`none`, as Dr. GRPO)."""
    whiten_advantages: bool = False
    """Then zero mean and unit variance over the rollout's policy tokens (REINFORCE++)."""
    normalize_each_reward: bool = False
    """Standardize each part of the reward in its group before they are summed by weight (GDPO)."""
    returns: str = "episode"
    """What a token is credited with: everything that the `episode` was paid, or what was paid from it on (`to_go`)."""
    objective: str = "clip"
    """`clip` (PPO's), `cispo` (the clipped ratio is a weight without gradient), or `plain` (ratio times advantage)."""
    ratio: str = "token"
    """Whose probability is compared with the old policy's: a `token`'s, the geometric mean over the row's tokens
    (`sequence`, GSPO), or their `product`, the whole answer's."""
    clip_low: float = 0.2
    """The ratio is clipped at 1 - clip_low ..."""
    clip_high: float = 0.2
    """... and 1 + clip_high: distances from 1, with every objective. (The weight 5 of CISPO's users is clip_high=4.)"""
    ratio_cap: float | None = None
    """With objective=clip: the largest ratio where the advantage is negative, which the clip leaves free (two-sided
    clip); null: none."""
    truncation: str = "keep"
    """Completions that the budget or the context cut off: `keep` them, or `mask` them: they carry no loss, and remain
    in their groups' statistics."""
    sampler_correction: float | None = None
    """Weigh each token's objective by exp(old - sampled log-probability), at most this: corrects for a sampler that
    computes in other numerics. null: leave it (float32 needs none; the metrics show `sampling/logprob_difference`)."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus, with a target where it begins. With either every row is computed, also those of
    groups without variance."""
    entropy_target: float | None = None
    """In nats per token: the weight rises by `entropy_step` an iteration below it, falls above it, and acts only below
    (arXiv 2505.22312). null: the weight stays."""
    entropy_step: float = 0.005
    entropy_max: float = 1.0
    """The largest weight that it rises to."""
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
    critic: str = "none"
    """There is none; a setting so that a run says it."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(learning_rate=1.5e-5, warmup_steps=3, decay="linear", decay_share=0.5)
    )

    def __post_init__(self) -> None:
        require(
            self.critic == "none",
            "agent.critic must be none: GRPO compares a completion with the others of its prompt and has no critic "
            f"(agent=ppo has one), got {self.critic!r}",
        )
        self._check_numbers()
        for name, known in CHOICES.items():
            require(
                getattr(self, name) in known,
                f"agent.{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}",
            )
        placed_estimator(self.kl_in, self.kl_estimator)
        check_renewal(self.reference_every, self.kl_coef)
        self._check_groups()
        self._check_advantages()
        self._check_parts()
        self._check_paid_kl()
        self._check_objective()

    def _check_numbers(self) -> None:
        for name in ("prompts", "group_size"):
            require(getattr(self, name) >= 1, f"agent.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("resample_rounds", "clip_high", "kl_coef"):
            require(getattr(self, name) >= 0, f"agent.{name} must be at least 0, got {getattr(self, name)}")
        require(0 <= self.clip_low <= 1, f"agent.clip_low must be in [0, 1], got {self.clip_low}")
        cap = self.sampler_correction
        require(cap is None or cap >= 1, f"agent.sampler_correction must be at least 1 or null, got {cap}")
        check_entropy(self.entropy_coef, self.entropy_target, self.entropy_step, self.entropy_max)

    def _check_groups(self) -> None:
        """What a completion is compared with is there."""
        require(
            self.group_size >= 2 or not self._of_group,
            f"agent.group_size must be at least 2 (a completion is compared with its group), got {self.group_size}",
        )
        require(
            self.prompts * self.group_size >= 2 or "batch" not in (self.baseline, self.scale_advantages),
            "agent.prompts must be at least 2 with agent.group_size=1 (a completion is compared with the batch), "
            f"got {self.prompts}",
        )
        require(
            self.group_size >= 2 or not self.resample_rounds,
            f"agent.group_size must be at least 2 with agent.resample_rounds={self.resample_rounds} (one completion "
            f"has no variance), got {self.group_size}",
        )
        require(
            bool(self.resample_rounds) or not self.resample_ignores,
            "agent.resample_rounds must be at least 1 for agent.resample_ignores to matter, got "
            f"{self.resample_rounds}",
        )

    def _check_advantages(self) -> None:
        """Combinations of what an advantage is made of."""
        require(
            self._of_group or self.scale_advantages != "group",
            f"agent.scale_advantages must be batch or none with agent.baseline={self.baseline} (a group without "
            f"variance has no std to divide by), got {self.scale_advantages}",
        )
        require(
            not self.whiten_advantages or self.scale_advantages != "batch",
            "agent.scale_advantages must be group or none with agent.whiten_advantages=true (whitening divides by the "
            f"batch's std), got {self.scale_advantages}",
        )
        require(
            self.returns == "episode" or self.scale_advantages == "none",
            "agent.scale_advantages must be none with agent.returns=to_go (tokens are scaled by "
            f"agent.whiten_advantages), got {self.scale_advantages}",
        )
        require(
            self.returns == "episode" or self.ratio == "token",
            "agent.ratio must be token with agent.returns=to_go (a row's ratio needs one advantage a row), "
            f"got {self.ratio}",
        )

    def _check_parts(self) -> None:
        """Standardizing each part of the reward is all that is done to them."""
        needed = {"baseline": "group", "scale_advantages": "group", "returns": "episode", "whiten_advantages": False}
        for name, value in needed.items():
            require(
                not self.normalize_each_reward or getattr(self, name) == value,
                f"agent.{name} must be {str(value).lower()} with agent.normalize_each_reward=true (it is the group's "
                f"mean and std of each part, and the batch's of their sum), got {getattr(self, name)}",
            )

    def _check_paid_kl(self) -> None:
        """A KL in the reward is in what the advantages are made of."""
        paid = self.kl_coef > 0 and self.kl_in != "loss"
        require(
            not paid or not self.normalize_each_reward,
            "agent.kl_in must be loss with agent.normalize_each_reward=true (the KL is no part of the reward), "
            f"got {self.kl_in}",
        )
        require(
            not paid or self.scale_advantages != "group",
            f"agent.scale_advantages must be batch or none with agent.kl_in={self.kl_in} (where all of a group are "
            "paid the same only the KL tells them apart, and the group's std makes that as large as any reward, "
            f"whatever agent.kl_coef is), got {self.scale_advantages}",
        )

    def _check_objective(self) -> None:
        """Combinations of ratio, clip and aggregation."""
        cap = self.ratio_cap
        require(
            cap is None or self.objective == "clip",
            f"agent.ratio_cap must be null with agent.objective={self.objective} (it belongs to clip), got {cap}",
        )
        require(
            cap is None or cap > 1 + self.clip_high,
            f"agent.ratio_cap must be above 1 + agent.clip_high = {1 + self.clip_high:g} (it is a ratio) or null, "
            f"got {cap}",
        )
        require(
            self.ratio == "token" or self.sampler_correction is None,
            f"agent.sampler_correction must be null with agent.ratio={self.ratio} (it weighs tokens), "
            f"got {self.sampler_correction}",
        )
        require(
            self.ratio != "product" or self.objective == "cispo" or self.optim.aggregation == "sequence_mean",
            "agent.optim.aggregation must be sequence_mean with agent.ratio=product (it is one factor a row; any other "
            f"would count it once a token, long rows twice over), got {self.optim.aggregation}",
        )

    @property
    def _of_group(self) -> bool:
        return self.baseline in ("group", "leave_one_out")

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def kl_kind(self) -> str:
        """The estimator, chosen or not."""
        return placed_estimator(self.kl_in, self.kl_estimator)

    def entropy(self) -> EntropyControl:
        """Who sets the weight of the entropy bonus."""
        return entropy_control(self.entropy_coef, self.entropy_target, step=self.entropy_step, most=self.entropy_max)
