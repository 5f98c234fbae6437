"""A reward for JSON: the completion holds a document, and the document fits a schema (`jsonschema`).

Size, depth and digits are bounded before anything is built; the schema is applied in a worker process under a time
limit, since its `pattern` and `$ref` can be slow. A schema needs the package; without one nothing is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rewards.bounded import bounded
from rewards.errors import Failure
from rewards.json_text import find_json, read_json
from rewards.types import Score, timed_out

PLACES = ("any", "whole", "fence", "tag")
TIMED_OUT = "timed out"
DEEPEST = 500
"""What `max_depth` may ask for; Python's own reader gives up soon after."""


@dataclass(frozen=True)
class JsonFormat:
    """1.0 for a JSON document that fits the schema, `syntax_credit` for one that does not, 0.0 for none.

    The schema is a mapping, `true` (anything), or the path of a file; None asks for JSON alone. What stands before
    `</think>` does not count. A document that takes too long to check scores 0: the completion chose it.

    Raises `ValueError` for a schema that is invalid, that refers to what it does not hold (nothing is fetched), or
    that never ends.

    >>> JsonFormat()(completion='<think>easy</think> {"a": 1}').value
    1.0
    >>> JsonFormat()(completion='{"a": 1, "a": 2}').info["reason"]
    "not JSON: the key 'a' comes twice"
    """

    timeout_is_zero = True

    schema: Any = None
    where: str = "any"
    """`whole`: the text is the document; `fence`: the last fenced block (```json or ```); `tag`: the inside of the last
    `<tag>`; `any`: the first of tag, fence and whole that is there."""
    tag: str = "json"
    syntax_credit: float = 0.0
    max_chars: int = 32768
    max_depth: int = 64
    """Brackets inside brackets, at most 500."""
    timeout_seconds: float = 1.0
    """Wall time of one check against the schema."""
    _schema_text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.where not in PLACES:
            raise ValueError(f"where must be one of {', '.join(PLACES)}, got {self.where!r}")
        if not self.tag or set(self.tag) & set("<>/ "):
            raise ValueError(f"tag must be a word without brackets, got {self.tag!r}")
        if not 0 <= self.syntax_credit <= 1:
            raise ValueError(f"syntax_credit must be from 0 to 1, got {self.syntax_credit!r}")
        if self.max_chars < 1:
            raise ValueError(f"max_chars must be at least 1, got {self.max_chars!r}")
        if not 1 <= self.max_depth <= DEEPEST:
            raise ValueError(f"max_depth must be from 1 to {DEEPEST}, got {self.max_depth!r}")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds!r}")
        object.__setattr__(self, "_schema_text", "" if self.schema is None else _checked(self.schema))

    @property
    def execution(self) -> str:
        """Without a schema a few linear passes; with one, a worker."""
        return "process" if self._schema_text else "inline"

    def __call__(self, completion: str) -> Score:
        text = find_json(completion, where=self.where, tag=self.tag)
        if text is None:
            return Score(0.0, info={"reason": "no JSON found"})
        try:
            document = read_json(text, max_chars=self.max_chars, max_depth=self.max_depth)
        except ValueError as error:
            return Score(0.0, info={"reason": f"not JSON: {error}"})
        fault = self._fault(document) if self._schema_text else ""
        if not fault:
            return Score(1.0)
        return Score(self.syntax_credit, info={"reason": fault, **timed_out(fault == TIMED_OUT)})

    def _fault(self, document: Any) -> str:
        calls = [(self._schema_text, document)]
        answer = bounded(_schema_fault, calls, timeout_seconds=self.timeout_seconds)[0]
        if isinstance(answer, Failure) and not answer.timed_out:
            raise RuntimeError(answer.reason)
        return TIMED_OUT if isinstance(answer, Failure) else answer


def _checked(schema: Any) -> str:
    from rewards.json_schema import checked_schema

    return checked_schema(schema)


def _schema_fault(call: tuple[str, Any]) -> str:
    from rewards.json_schema import schema_fault

    return schema_fault(call)
