"""How an iteration's prompts become optimizer steps, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from agents.config import TrainConfig
from agents.optim import minibatch_groups, num_minibatches


@dataclass(frozen=True, slots=True)
class Algebra:
    """How an iteration's prompts become optimizer steps."""

    prompts: int
    group_size: int
    max_new_tokens: int
    rows: int
    """Of the environment."""
    propose_tokens: int
    epochs: int
    minibatches: int
    """In an epoch."""
    minibatch_groups: int
    """In the largest of them."""
    iterations: int
    natural_steps: int = 0
    """Of the policy, beside those of minibatches (TRPO, whose minibatches are the critic's)."""

    @staticmethod
    def of(config: TrainConfig) -> Algebra:
        """Of a run's settings; minibatches take whole groups until they have their rows."""
        agent, optim = config.agent, config.agent.optim
        sequences = agent.prompts * agent.group_size
        return Algebra(
            prompts=agent.prompts,
            group_size=agent.group_size,
            max_new_tokens=config.env.max_new_tokens,
            rows=min(config.env.rows or sequences, sequences),
            propose_tokens=config.env.propose_tokens,
            epochs=optim.epochs,
            minibatches=num_minibatches(optim, agent.prompts, agent.group_size),
            minibatch_groups=minibatch_groups(optim, agent.prompts, agent.group_size),
            iterations=config.iterations,
            natural_steps=int(agent.name == "trpo"),
        )

    @property
    def sequences(self) -> int:
        return self.prompts * self.group_size

    @property
    def tokens(self) -> int:
        """At most, in an iteration."""
        return self.sequences * self.max_new_tokens

    @property
    def waves(self) -> int:
        """How often each row is used, at least."""
        return -(-self.sequences // self.rows)

    @property
    def rounds(self) -> int:
        """Proposals that a full completion takes."""
        return -(-self.max_new_tokens // self.propose_tokens)

    @property
    def minibatch_rows(self) -> int:
        return self.minibatch_groups * self.group_size

    @property
    def steps(self) -> int:
        """Optimizer steps an iteration."""
        return self.epochs * self.minibatches + self.natural_steps


def count(number: int, noun: str, nouns: str | None = None) -> str:
    """A number and its noun.

    >>> count(1, "wave"), count(4608, "token")
    ('1 wave', '4,608 tokens')
    """
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"
