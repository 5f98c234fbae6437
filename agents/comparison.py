"""Several losses on one stored rollout: how long their gradients are, and how far apart they point.

Every loss sees the same rows, the same old log-probabilities and the policy's same weights; its advantages are its
own. The gradient is that of the policy's weights, over all rows as one minibatch, before any clip of its norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from agents.config import AGENTS, AgentConfig, TrainConfig, typed
from agents.credit import counted
from agents.fingerprint import weights_hash
from agents.policy import Policy
from agents.policy.hardware import pick_device, pick_dtype
from agents.require import require
from agents.rollout import Rollout
from agents.saved import CONF, Say, load_weights
from agents.setup import Agent, build_agent, build_policy
from agents.trpo import TRPO


@dataclass(frozen=True, slots=True)
class LossReport:
    """One loss on the rollout."""

    name: str
    loss: float
    norm: float
    """Of the gradient of the policy's weights."""
    clipped: float
    """Share of the tokens whose gradient the clip stops."""
    ratio: float
    """Mean probability ratio: how far the policy is from the one that acted."""
    cosines: tuple[float, ...]
    """Of the angles to the gradients of all losses, in order; NaN where one of them is zero."""


def choices() -> list[str]:
    """The names that a loss may have."""
    return sorted({*AGENTS, *(path.stem for path in (Path(CONF) / "experiment").glob("*.yaml"))})


def named_agent(words: str) -> AgentConfig:
    """The agent settings behind `grpo`, `dr_grpo` (an experiment), `agent=ppo agent.lam=0.9`, or several such words.

    Raises `ValueError` for a word that is none of these, and for settings that cannot work.
    """
    overrides = []
    for word in words.split():
        known = word in choices()
        require("=" in word or known, f"loss must be of {', '.join(choices())} or settings, got {word!r} in {words!r}")
        overrides.append(word if "=" in word else f"agent={word}" if word in AGENTS else f"experiment={word}")
    try:
        if GlobalHydra.instance().is_initialized():
            composed = compose("train", overrides)
        else:
            with initialize_config_dir(CONF, version_base="1.3"):
                composed = compose("train", overrides)
        return typed(composed).agent
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"loss={words!r} cannot be composed: {str(error).splitlines()[0]}") from error


def compare_losses(
    config: TrainConfig,
    rollout: Rollout,
    agents: Mapping[str, AgentConfig],
    *,
    vocabulary: int,
    state: Mapping[str, Any] | None,
    expected_weights: str | None = None,
    say: Say = print,
) -> list[LossReport]:
    """Each agent's loss on `rollout`, under a run's weights (`state`, an agent's from a checkpoint) or untrained ones.

    Computes in float32. `say` hears what had to be filled in, and when the weights are not those of
    `expected_weights`, the hash of those that acted.
    """
    critic = next((c for c in (config.agent, *agents.values()) if c.critic != "none"), config.agent)
    plain = replace(config, agent=critic, policy=replace(config.policy, precision="float32"))
    policy = build_policy(plain, vocabulary, say)
    built = {name: build_agent(replace(plain, agent=agent), policy) for name, agent in agents.items()}
    if state is not None:
        load_weights(policy.model, state["optimizer"]["actor"], config.policy.model)
        load_critic(policy, state["optimizer"]["critic"])
    dtype = pick_dtype(config.policy.precision, pick_device(config.policy.device))
    if expected_weights is not None and weights_hash(policy.model, dtype) != expected_weights:
        say("These are not the weights that acted: the ratios are not 1.")
    gradients, means = {}, {}
    for name, agent in built.items():
        policy.value_gradient = getattr(agent.config, "value_gradient", True)
        means[name] = gradient(agent, completed(rollout, agent, say))
        gradients[name] = flat_gradient(policy)
    cosines = cosine_table(list(gradients.values()))
    return [
        LossReport(
            name,
            means[name]["loss"],
            float(gradients[name].norm()),
            means[name].get("clip_ratio", 0.0),
            means[name].get("ratio/mean", 1.0),
            tuple(row),
        )
        for name, row in zip(built, cosines.tolist(), strict=True)
    ]


def gradient(agent: Agent, rollout: Rollout) -> dict[str, float]:
    """Leave the gradient of an agent's loss of all rows in the parameters; returns the means of what it reports."""
    made = agent.advantages(rollout)
    parts = made if isinstance(made, tuple) else (made,)
    if isinstance(agent, TRPO):
        parts = parts[:1]  # the critic learns behind the step, by a loss of its own
    rollout = counted(rollout, agent.config.truncation)
    return agent.optimizer.gradient(
        lambda rows: agent.loss(rollout[rows], *(part[rows] for part in parts)),
        rollout,
        max_tokens=rollout.max_tokens,
    )


def completed(rollout: Rollout, agent: Agent, say: Say) -> Rollout:
    """The rollout with what this agent needs and its run did not."""
    if rollout.old_logprob is None:
        rollout = rollout.with_(old_logprob=rollout.sampled_logprob)
    tokens = agent.config.optim.microbatch_tokens
    if agent.config.critic != "none" and rollout.value is None:
        say("The run had no critic: for losses with one the values are those of this policy's value head.")
        scores = agent.policy.score(rollout, microbatch_tokens=tokens, with_final_value=True)
        rollout = rollout.with_(value=scores.value, final_value=scores.final_value)
    if agent.reference is not None and rollout.reference_logprob is None:
        scores = agent.reference.score(rollout, microbatch_tokens=tokens)
        rollout = rollout.with_(reference_logprob=scores.logprob)
    if agent.reference is not None and agent.config.kl_in == "both" and rollout.reference_kl is None:
        scores = agent.policy.score(rollout, microbatch_tokens=tokens, kl_to=agent.reference)
        rollout = rollout.with_(reference_kl=scores.kl)
    return rollout


@torch.no_grad()
def load_critic(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Take a run's critic, where it had one of this kind; else it stays untrained."""
    parameters = {name: p for name, p in policy.named_parameters() if name in weights}
    if len(parameters) == len(weights):
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def flat_gradient(policy: Policy) -> Tensor:
    """The gradient of the policy's weights as one vector."""
    return torch.cat([p.grad.detach().flatten().cpu() for p in policy.model.parameters() if p.grad is not None])


def cosine_table(gradients: Sequence[Tensor]) -> Tensor:
    """The cosine of every pair, in float64; NaN where a gradient is zero.

    >>> cosine_table([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])])[0]
    tensor([1.0000, 0.7071], dtype=torch.float64)
    """
    dots = torch.tensor([[float(a.double() @ b.double()) for b in gradients] for a in gradients], dtype=torch.float64)
    norms = dots.diagonal().sqrt()
    return dots / (norms[:, None] * norms)
