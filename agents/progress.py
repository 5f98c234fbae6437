"""The display of a run: a live panel in a terminal, one plain line an iteration anywhere else."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SHOWN = (
    ("reward/mean", "reward", "{:.3f}"),
    ("eval/accuracy", "held-out accuracy", "{:.3f}"),
    ("kl", "KL", "{:.4f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("completions/mean_length", "length", "{:.1f}"),
    ("clip_ratio", "clipped", "{:.3f}"),
    ("groups/zero_variance_share", "groups alike", "{:.2f}"),
    ("groups/rounds", "rounds", "{:.0f}"),
    ("value_loss", "value loss", "{:.4f}"),
    ("explained_variance", "explained variance", "{:.2f}"),
    ("tokens_per_second", "tokens/s", "{:,.0f}"),
    ("time/seconds", "seconds", "{:.1f}"),
)
"""Metric, label, format. What a run does not measure is not shown."""
BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 32
SAMPLE_CHARACTERS = 400
SAMPLE_LINES = 6
QUIET_SECONDS = 20.0
"""Without a terminal, what goes on inside an iteration is printed at most this often."""


class Progress:
    """A context manager that shows how a run is doing; `update` it once an iteration.

    `start` is the number of iterations done before (a resumed run). The time left is the mean time of the last 20
    iterations times the number to come. Without a terminal every update prints one line.
    """

    def __init__(self, num_iterations: int, *, title: str = "", start: int = 0, console: Console | None = None) -> None:
        self._num_iterations = num_iterations
        self._title = title
        self._done = start
        self._console = console or Console(highlight=False)
        self._history: dict[str, list[float]] = {}
        self._fresh: frozenset[str] = frozenset()
        self._sample: tuple[str, str, float] | None = None
        self._started = time.monotonic()
        self._moments = deque([self._started], maxlen=21)
        self._doing = ""
        self._said = self._started
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        self._moments = deque([self._started], maxlen=self._moments.maxlen)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, get_renderable=self._panel, refresh_per_second=4)
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(
        self, iteration: int, metrics: Mapping[str, float], sample: tuple[str, str, float] | None = None
    ) -> None:
        """Iteration number `iteration` (from 1) is done. `sample` is a prompt, its completion and the score."""
        self._doing = ""
        self._done = iteration
        self._moments.append(time.monotonic())
        present = {name: float(metrics[name]) for name, _, _ in SHOWN if name in metrics}
        present = {name: number for name, number in present.items() if math.isfinite(number)}
        for name, number in present.items():
            self._history.setdefault(name, []).append(number)
        self._fresh = frozenset(present)
        self._sample = sample or self._sample
        if self._live is None:
            self._print(self._line())
        else:
            self._live.refresh()

    def note(self, text: str) -> None:
        """Print a line that stays, above the panel."""
        self._print(text)

    def busy(self, text: str) -> None:
        """What a long iteration is doing: a line of the panel, or one that is printed now and then."""
        if self._live is not None:
            self._doing = text
        elif time.monotonic() - self._said >= QUIET_SECONDS:
            self._print(f"iteration {self._done + 1}: {text}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
        self._said = time.monotonic()

    def _line(self) -> str:
        width = len(str(self._num_iterations))
        parts = [f"iteration {self._done:>{width}}/{self._num_iterations}"]
        for name, label, form in SHOWN:
            if name in self._fresh:
                parts.append(f"{label} {form.format(self._history[name][-1])}")
        if (left := self._seconds_left()) is not None:
            parts.append(f"left {clock(left)}")
        return "  ".join(parts)

    def _panel(self) -> RenderableType:
        parts: list[RenderableType] = [self._bar()]
        if self._doing:
            parts.append(Text(self._doing, style="dim"))
        if self._history:
            parts += [Text(), self._table()]
        if self._sample is not None:
            parts += [Text(), *self._sample_lines(*self._sample)]
        return Panel(Group(*parts), title=Text(self._title or "training", style="bold"), padding=(1, 2), style="none")

    def _bar(self) -> RenderableType:
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        left = self._seconds_left()
        times = clock(time.monotonic() - self._started) + (f" · {clock(left)} left" if left is not None else "")
        row.add_row(
            Text.assemble(("iteration ", "dim"), (f"{self._done}/{self._num_iterations}", "bold")),
            ProgressBar(total=max(self._num_iterations, 1), completed=self._done),
            Text(times, style="dim"),
        )
        return row

    def _table(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(style="cyan", no_wrap=True)
        for name, label, form in SHOWN:
            if numbers := self._history.get(name):
                style = "bold green" if name in ("reward/mean", "eval/accuracy") else ""
                table.add_row(label, Text(form.format(numbers[-1]), style=style), sparkline(numbers))
        return table

    def _sample_lines(self, prompt: str, completion: str, score: float) -> list[RenderableType]:
        colour = "green" if score > 0 else "red"
        return [
            Text(printable(prompt), style="dim"),
            Text(printable(completion) or "(nothing)"),
            Text.assemble(("score ", "dim"), (f"{score:.3g}", colour)),
        ]

    def _seconds_left(self) -> float | None:
        """None before the first iteration and after the last."""
        spans, to_come = len(self._moments) - 1, self._num_iterations - self._done
        if spans < 1 or to_come < 1:
            return None
        return (self._moments[-1] - self._moments[0]) / spans * to_come


def sparkline(numbers: list[float], columns: int = SPARK_COLUMNS) -> str:
    """All numbers as at most `columns` blocks, neighbours averaged; the lowest at the bottom, the highest at the top.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    >>> sparkline([0.0, 1.0, 4.0, 6.0], columns=2)
    '▁█'
    """
    if len(numbers) > columns:
        edges = [round(i * len(numbers) / columns) for i in range(columns + 1)]
        numbers = [sum(numbers[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(numbers), max(numbers)
    steps = [int((x - low) / (high - low) * (len(BLOCKS) - 1) + 0.5) if high > low else 0 for x in numbers]
    return "".join(BLOCKS[step] for step in steps)


def clock(seconds: float) -> str:
    """Seconds as people write them.

    >>> clock(67.2), clock(3725)
    ('1:07', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """A few lines of `text` that cannot steer a terminal: control characters become dots.

    >>> printable("a\\x1b[31mb")
    'a·[31mb'
    """
    shown = "".join(c if c.isprintable() or c == "\n" else "·" for c in text.strip().replace("\t", " "))
    lines = [line for line in shown.splitlines() if line.strip()]
    cut = "\n".join(lines[:SAMPLE_LINES])[:SAMPLE_CHARACTERS]
    return cut + (" …" if len(cut) < len("\n".join(lines)) else "")
