"""The run doctor: what a run's numbers mean, in plain words, with what to do about it.

A rule is a function of the history of a run that returns a `Finding` or None; `examine` asks all of them.
"""

from agents.doctor.finding import ALARM, NOTE, Finding
from agents.doctor.history import History, Setting
from agents.doctor.report import examine, lines_of
from agents.doctor.watch import Watch

__all__ = ["ALARM", "NOTE", "Finding", "History", "Setting", "Watch", "examine", "lines_of"]
