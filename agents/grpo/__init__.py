"""Group Relative Policy Optimization: several completions a prompt, judged against each other, no critic."""

from agents.grpo.agent import GRPO
from agents.grpo.config import GRPOConfig

__all__ = ["GRPO", "GRPOConfig"]
