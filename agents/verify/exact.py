"""The true objectives, summed over every trajectory, and their gradients in the logits of the policy.

Each is a mean over prompts. Whole-sequence quantities differentiate everything, how a token changes the states that
follow included; those that are called stepwise hold the visited states fixed, which is what a term of a loss per token
can know.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from agents.verify.scene import Scene


def reward(scene: Scene) -> Float[Tensor, ""]:
    """E[R]: what a trajectory scores on average."""
    return (scene.policy.trajectories().exp() * scene.world.score).sum() / scene.world.num_prompts


def reward_and_beyond(scene: Scene) -> Float[Tensor, ""]:
    """The same with what lies behind the budget, as if nothing had been cut off."""
    earned = scene.world.score + scene.world.beyond
    return (scene.policy.trajectories().exp() * earned).sum() / scene.world.num_prompts


def reward_of_ended(scene: Scene) -> Float[Tensor, ""]:
    """E[R - mean; ended]: an answer that was cut off counts neither as good nor as bad, the others as far as they are
    better than the mean of all, which is held fixed. Of one prompt."""
    mass, ended = scene.policy.trajectories().exp(), ~scene.world.truncated
    mean = (scene.probability() * scene.world.score).sum()
    return (mass * (scene.world.score - mean))[ended].sum()


def cut(scene: Scene) -> Float[Tensor, ""]:
    """How often the budget ends an answer."""
    return scene.policy.trajectories().exp()[scene.world.truncated].sum() / scene.world.num_prompts


def kl(scene: Scene) -> Float[Tensor, ""]:
    """KL(policy || reference) of whole sequences: the reverse one."""
    logprob, other = scene.policy.trajectories(), scene.reference.trajectories().detach()
    return (logprob.exp() * (logprob - other)).sum() / scene.world.num_prompts


def forward_kl(scene: Scene) -> Float[Tensor, ""]:
    """KL(reference || policy) of whole sequences."""
    logprob, other = scene.policy.trajectories(), scene.reference.trajectories().detach()
    return (other.exp() * (other - logprob)).sum() / scene.world.num_prompts


def stepwise_kl(scene: Scene) -> Float[Tensor, ""]:
    """The reverse KL of every token's choice, summed over the states that are visited."""
    logprob, other = _choices(scene)
    return _visited(scene, (logprob.exp() * (logprob - other)).sum(-1))


def stepwise_forward_kl(scene: Scene) -> Float[Tensor, ""]:
    """The forward one."""
    logprob, other = _choices(scene)
    return _visited(scene, (other.exp() * (other - logprob)).sum(-1))


def entropy(scene: Scene) -> Float[Tensor, ""]:
    """Of whole sequences."""
    logprob = scene.policy.trajectories()
    return -(logprob.exp() * logprob).sum() / scene.world.num_prompts


def stepwise_entropy(scene: Scene) -> Float[Tensor, ""]:
    """Of every token's choice, summed over the states that are visited."""
    logprob, _ = _choices(scene)
    return _visited(scene, -(logprob.exp() * logprob).sum(-1))


OBJECTIVES: dict[str, Callable[[Scene], Tensor]] = {
    "reward": reward,
    "reward_and_beyond": reward_and_beyond,
    "reward_of_ended": reward_of_ended,
    "cut": cut,
    "kl": kl,
    "forward_kl": forward_kl,
    "stepwise_kl": stepwise_kl,
    "stepwise_forward_kl": stepwise_forward_kl,
    "entropy": entropy,
    "stepwise_entropy": stepwise_entropy,
}


def gradient(scene: Scene, name: str) -> Float[Tensor, "D"]:
    """Of the objective of that name, in the policy's logits."""
    return torch.autograd.grad(OBJECTIVES[name](scene), scene.policy.model.weight)[0].flatten()


def mixture(scene: Scene, parts: dict[str, float]) -> Float[Tensor, "D"]:
    """The gradient of a weighted sum of objectives."""
    zero = torch.zeros_like(scene.policy.model.weight).flatten()
    return sum((weight * gradient(scene, name) for name, weight in parts.items()), zero)


def _choices(scene: Scene) -> tuple[Tensor, Tensor]:
    """Log-probabilities of every token in every state: the policy's, with gradient, and the reference's."""
    policy, reference = scene.policy.model.weight, scene.reference.model.weight
    return policy.log_softmax(-1), reference.detach().log_softmax(-1)


def _visited(scene: Scene, number: Float[Tensor, "S"]) -> Float[Tensor, ""]:
    return (scene.occupancy() * number).sum() / scene.world.num_prompts
