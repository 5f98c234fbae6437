"""A language model as a judge (RLAIF): over an OpenAI-compatible endpoint, or a local model.

Importing this package imports neither torch nor an HTTP client; choosing a backend does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.judge.endpoint import ChatEndpoint as ChatEndpoint
    from rewards.judge.judge import LLMJudge as LLMJudge
    from rewards.judge.local import LocalModel as LocalModel
    from rewards.judge.rubric import Rubric as Rubric

_HOMES = {"ChatEndpoint": "endpoint", "LLMJudge": "judge", "LocalModel": "local", "Rubric": "rubric"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rewards.judge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rewards.judge.{_HOMES[name]}"), name)
