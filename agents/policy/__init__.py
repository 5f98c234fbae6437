"""The batched policy core: model, cache, sampler, scoring, loading."""

from agents.policy.model import LanguageModel
from agents.policy.policy import Evaluation, Policy
from agents.policy.proposal import Action
from agents.policy.sampling import Sampling
from agents.policy.value import ValueHead

__all__ = ["Action", "Evaluation", "LanguageModel", "Policy", "Sampling", "ValueHead"]
