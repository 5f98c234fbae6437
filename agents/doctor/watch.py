"""The doctor at the side of a running training: says each finding once, and again only when it has become worse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agents.doctor.history import History, Record, Setting
from agents.doctor.report import examine, in_one_line

EVERY = 5
"""Iterations between looks."""
WORSE = 1.5
"""Growth of a finding's measure at which it is told again."""


class Watch:
    """Called once an iteration; returns the lines that are worth a note."""

    def __init__(self, setting: Setting, records: Iterable[Record] = ()) -> None:
        self._setting, self._records = setting, list(records)
        self._told: dict[tuple[str, str], float] = {}

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> list[str]:
        """What is new after this iteration."""
        self._records.append({"iteration": iteration, **metrics})
        if iteration % EVERY:
            return []
        lines = []
        for finding in examine(History(self._records, self._setting)):
            key = finding.rule, finding.level
            if key not in self._told or finding.measure >= WORSE * self._told[key]:
                self._told[key] = finding.measure
                lines.append(in_one_line(finding))
        return lines
