"""What a cell's settings promise: which objective its expected gradient is exactly that of, or why of none.

The rules are those of the papers, one setting at a time; `estimate` sums what really happens, and a promise that is
not kept fails the command. A constant factor is no bias, but it is promised too: the learning rate acts through it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agents.grpo import GRPOConfig
from agents.verify.cells import Cell, Config

REASONS = {
    "token_mean": "tokens of a batch share one sum, so a batch of long answers counts less",
    "sequence_mean": "a token of a long answer counts less: bad answers may as well be long (arXiv 2503.20783)",
    "scale group": "groups of small spread count more, easy and hard prompts with them (arXiv 2503.20783)",
    "scale batch": "divided by the std of the very returns that it scales; fades with the size of the batch",
    "whiten": "shifted and scaled by mean and std of the very advantages; fades with the size of the batch",
    "whiten tokens": "every token is paid for being there",
    "whiten returns": "divided by the std of the very returns that it scales; fades with the size of the batch",
    "reward clip": "another reward is maximized",
    "gamma": "what comes late counts less than in E[R]: variance for bias",
    "lambda": "credit is given by a critic that is wrong",
    "bootstrap": "what lies behind the budget is judged by a critic that is wrong",
    "clip": "beyond the clip there is no gradient: a bound on the step, by design",
    "cispo": "clipped weights: variance for bias",
    "penalty": "the KL to the old policy holds the step back, by design",
    "token": "the ratio corrects the token, not how its state was reached nor what followed: small while steps are",
    "sequence": "the geometric mean corrects less than the whole ratio: variance for bias",
    "product": "the ratio of a whole answer is counted once a token: use sequence_mean",
    "k2": "right for the policy's own samples only: use weighted_k3",
    "k3": "for an older policy's samples the gradient of neither KL",
    "paid": "the KL that was paid is the older policy's",
    "mask critic": "V is no baseline among the answers that are left",
    "mask baseline": "without a baseline an answer that is left counts for its score and for being left",
    "mask count": "the answers that are left share one weight, and how many they are is chance",
    "mask kl": "the KL of the answers that are left out is missing",
}
"""Why a cell is no multiple of any objective's gradient, and what that is good for."""


ABSENT = {"kl_in": "reward", "entropy_coef": 0.0, "objective": "plain", "whiten_rewards": None, "reward_clip": None}
"""What TRPO does, which has no setting for it."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The weighted objectives (`exact.OBJECTIVES`) whose gradient it is, or why it is none's."""

    parts: dict[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


def promise(cell: Cell) -> Promise:
    """What this cell's expected gradient is."""
    rules = (of_aggregation, of_truncation, of_kl, of_group if cell.agent == "grpo" else of_critic)
    reasons = [reason for rule in rules for reason in rule(cell)]
    return Promise(reasons=tuple(REASONS[reason] for reason in reasons)) if reasons else Promise(parts(cell))


def of_aggregation(cell: Cell) -> Iterator[str]:
    """Weights that depend on how long answers are."""
    config: Any = cell.config()
    aggregation, once = config.optim.aggregation, counts_once(cell)
    if len(cell.scene.world.length.unique()) == 1:
        return
    if once and aggregation != "sequence_mean" and credits(cell):
        yield "product"
    per_token = not once or (config.kl_coef > 0 and at(config, "kl_in") != "reward") or at(config, "entropy_coef") > 0
    if per_token and aggregation in ("token_mean", "sequence_mean"):
        yield aggregation


def of_truncation(cell: Cell) -> Iterator[str]:
    """What is done about answers that the budget cut."""
    config: Any = cell.config()
    if config.truncation == "bootstrap" and cell.critic == "wrong":
        yield "bootstrap"
    if config.truncation != "mask":
        return
    if config.kl_coef > 0 or at(config, "entropy_coef") > 0:
        yield "mask kl"
    if config.optim.aggregation != "constant":
        yield "mask count"
    if not isinstance(config, GRPOConfig):
        yield "mask critic"
    elif config.baseline == "none":
        yield "mask baseline"


def of_kl(cell: Cell) -> Iterator[str]:
    """An estimator that needs the policy's own samples."""
    config: Any = cell.config()
    if config.kl_coef > 0 and cell.older:
        if at(config, "kl_in") != "loss":
            yield "paid"
        elif config.kl_kind in ("k2", "k3"):
            yield config.kl_kind


def of_group(cell: Cell) -> Iterator[str]:
    """Advantages and ratios of a group."""
    config: Any = cell.config()
    if not credits(cell):
        return
    if config.scale_advantages != "none":
        yield f"scale {config.scale_advantages}"
    if config.whiten_advantages:
        yield "whiten"
    if cell.older:
        if config.objective != "plain" and (config.clip_low < 1 or config.clip_high < 1e6):
            yield config.objective
        if config.ratio != "product":
            yield config.ratio


def of_critic(cell: Cell) -> Iterator[str]:
    """Credit by a critic, and the ratio of a token."""
    config: Any = cell.config()
    if not credits(cell):
        return
    if config.whiten_advantages:
        yield "whiten"
    if at(config, "whiten_rewards"):
        yield f"whiten {at(config, 'whiten_rewards')}"
    if at(config, "reward_clip") is not None:
        yield "reward clip"
    if config.gamma < 1:
        yield "gamma"
    if config.lam < 1 and (cell.critic == "wrong" or (config.kl_coef > 0 and at(config, "kl_in") != "loss")):
        yield "lambda"
    if cell.older:
        if at(config, "objective") != "plain":
            yield at(config, "objective")
        yield "token"


def credits(cell: Cell) -> bool:
    """Whether there are advantages that are not 0."""
    config: Any = cell.config()
    return cell.scored or cell.critic == "wrong" or (config.kl_coef > 0 and at(config, "kl_in") != "loss")


def counts_once(cell: Cell) -> bool:
    """Whether the objective has one factor a row, not one a token: only a mean over its tokens then counts it once."""
    config: Any = cell.config()
    return isinstance(config, GRPOConfig) and config.ratio == "product" and config.objective != "cispo"


def at(config: Config, name: str) -> Any:
    """A setting that not every agent has."""
    return getattr(config, name, ABSENT[name])


def parts(cell: Cell) -> dict[str, float]:
    """The objectives and their weights, where nothing is in the way."""
    config: Any = cell.config()
    each = 1 / cell.scene.world.budget if config.optim.aggregation == "constant" else 1.0
    group = each * baseline_factor(cell)
    found: dict[str, float] = {}
    if cell.scored:
        found[objective(cell)] = group
    if config.truncation == "penalty":
        found["cut"] = -group * config.truncation_penalty
    place, entropy = at(config, "kl_in"), at(config, "entropy_coef")
    if config.kl_coef > 0 and place == "reward":
        found["kl"] = -group * config.kl_coef
    elif config.kl_coef > 0:
        own = "stepwise_forward_kl" if config.kl_kind == "k3" else "stepwise_kl"
        found[own] = -each * config.kl_coef
    if config.kl_coef > 0 and place == "both":  # paid is what a token does to the states behind it
        found["kl"] = -group * config.kl_coef
        found["stepwise_kl"] += group * config.kl_coef
    if entropy > 0:
        found["stepwise_entropy"] = each * entropy
    return {name: weight for name, weight in found.items() if weight}


def truth(cell: Cell) -> dict[str, float]:
    """What one would maximize if one could: E[R] less the KL of whole answers, with their entropy."""
    config: Any = cell.config()
    wanted = "reward_and_beyond" if cell.whole_task else "reward"
    found = {wanted: float(cell.scored), "kl": -config.kl_coef, "entropy": at(config, "entropy_coef")}
    return {name: weight for name, weight in found.items() if weight}


def baseline_factor(cell: Cell) -> float:
    """What is left of the gradient by a baseline that the answer itself is a part of."""
    config, world = cell.config(), cell.scene.world
    if not isinstance(config, GRPOConfig) or config.baseline in ("none", "leave_one_out"):
        return 1.0
    size = world.group_size * (world.num_prompts if config.baseline == "batch" else 1)
    return (size - 1) / size


def objective(cell: Cell) -> str:
    """Which reward is maximized."""
    truncation = cell.config().truncation
    return {"mask": "reward_of_ended", "bootstrap": "reward_and_beyond"}.get(truncation, "reward")
