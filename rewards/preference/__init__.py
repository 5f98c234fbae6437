"""The learned reward model: Bradley-Terry on pairs, a scalar head on any causal language model.

Importing this package does not import torch; loading weights or training does.
"""

from rewards.preference.scoring import RewardModel

__all__ = ["RewardModel"]
