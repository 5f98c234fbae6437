"""Ctrl-C and SIGTERM: finish what is under way, save, leave; a second one leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """A context in which the first signal only sets `requested`. Outside the main thread it changes nothing.

    `unit` is what is finished first, for the message that goes to `say`.
    """

    def __init__(self, say: Callable[[str], None], *, unit: str = "iteration") -> None:
        self.requested = False
        self._say, self._unit = say, unit
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._say(f"Stopping after this {self._unit} and saving; once more to leave at once without saving.")
