"""The learned reward model: a scalar head on any causal language model, trained on pairs and rankings.

Importing this package does not import torch; loading weights or training does.
"""

from rewards.preference.scoring import RewardModel

__all__ = ["RewardModel"]
