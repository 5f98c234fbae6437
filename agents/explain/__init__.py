"""What a run will do, before anything is loaded: `python -m agents.train ... --explain`.

The batch algebra from prompts to optimizer steps, who is held in memory and how much that takes, the learning rates in
words, what is examined, and what is rewarded where. The environments are built, since they know the lengths and find
mistakes; no weight is read and no folder is made.
"""

from agents.explain.algebra import Algebra
from agents.explain.report import as_setting, explain

__all__ = ["Algebra", "as_setting", "explain"]
