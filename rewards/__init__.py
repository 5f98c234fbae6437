"""Text in, scores out. Imports neither torch nor gymnasium; a reward's own needs are imported when it is chosen."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Message": "types",
    "Reward": "types",
    "Sample": "types",
    "Score": "types",
    "Part": "combine",
    "as_parts": "combine",
    "RewardError": "errors",
    "Scorer": "scoring",
    "Verdict": "scoring",
    "RegexReward": "format",
    "TagFormat": "format",
    "JsonFormat": "json_format",
    "LengthPenalty": "lengths",
    "SoftOverlong": "lengths",
    "RepetitionPenalty": "repetition",
    "Lexicon": "lexicon",
    "ChatEndpoint": "judge",
    "LLMJudge": "judge",
    "LocalModel": "judge",
    "Rubric": "judge",
    "LastInteger": "math",
    "MathAnswer": "math",
    "PartialCredit": "math",
    "UnitTests": "code",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rewards' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rewards.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
