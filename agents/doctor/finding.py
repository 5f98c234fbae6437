"""What a rule says: one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

ALARM, NOTE = "alarm", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """A statement about a run and what to do about it."""

    rule: str
    level: str
    """`alarm`: something should be changed; `note`: good to know."""
    says: str
    """What is the case, with its numbers."""
    advice: str
    """What to do, with the settings' names."""
    measure: float = 1.0
    """How bad it is, in the rule's own unit: a finding is told again when this has grown by half."""
