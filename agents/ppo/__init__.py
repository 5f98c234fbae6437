"""Proximal Policy Optimization: a critic, generalized advantages, a clipped objective."""

from agents.ppo.agent import PPO
from agents.ppo.config import PPOConfig

__all__ = ["PPO", "PPOConfig"]
