"""Trust Region Policy Optimization: what PPO simplifies. A natural gradient, a step that is checked."""

from agents.trpo.agent import TRPO
from agents.trpo.config import TRPOConfig

__all__ = ["TRPO", "TRPOConfig"]
