"""The policy that the KL is taken to: as it was before training, or renewed every so many iterations.

A reference that never moves ties a long run to its start; one that follows bounds how fast the policy may go, not how
far (arXiv 2505.24864, ProRL, resets it hard, as here; TR-DPO, arXiv 2404.09656, also mixes).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from agents.policy import Policy


@torch.no_grad()
def renew(reference: Policy, policy: Policy) -> None:
    """Make the reference what the policy is now."""
    for was, now in zip(reference.model.parameters(), policy.model.parameters(), strict=True):
        was.copy_(now)
    reference.reset()


def renew_when_due(reference: Policy | None, policy: Policy, *, every: int | None, num_updates: int) -> None:
    """`renew` behind every `every`th update; None: never."""
    if reference is not None and every is not None and num_updates % every == 0:
        renew(reference, policy)


def reference_state(reference: Policy | None, every: int | None) -> dict[str, Tensor] | None:
    """Its weights, where they change; a reference that does not is built anew from where the run began."""
    if reference is None or every is None:
        return None
    return {name: parameter.detach() for name, parameter in reference.model.named_parameters()}


@torch.no_grad()
def load_reference(reference: Policy | None, state: Mapping[str, Tensor] | None) -> None:
    """Continue with the weights of `reference_state`."""
    if reference is None or state is None:
        return
    for name, parameter in reference.model.named_parameters():
        parameter.copy_(state[name])
    reference.reset()
