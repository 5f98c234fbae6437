"""Pictures as SVG text that stands inside of a page: curves with bands, and intervals. Colours are the page's.

Class `c0`, `c1`, ... colours an agent (the page defines `--c0`, ...), so that a picture is readable on any background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 40
ROW = 26
"""Height of an interval."""
LEAST_WIDTH = 260
"""Of intervals and their numbers, beside labels of any length."""
DASHES = ("", "7 4", "2 3", "9 3 2 3")
"""Behind the seventh colour they come again, dashed."""
NUM_COLOURS = 7


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: where it goes, and between which it lies."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    """Thin lines: x and y of each seed."""
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of a picture of intervals."""

    label: str
    middle: float
    low: float | None
    high: float | None
    colour: int | None = None
    """None: grey, nothing significant."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Pixels.

        >>> Axis(0.0, 10.0, 100.0, 200.0).at(5.0)
        150.0
        """
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def curves(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_range: tuple[float, float] | None = None,
    level: float | None = None,
) -> str:
    """Curves with bands; `level` is a dashed horizontal line."""
    xs = [x for line in lines for some in (line.x, *(x for x, _ in line.seeds)) for x in some]
    ys = [y for line in lines for some in (line.y, line.low, line.high) for y in some]
    low, high = y_range or padded(min([*ys, 0.0]), max([*ys, 0.0]))
    x_axis = Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, LEFT, WIDTH - RIGHT)
    y_axis = Axis(low, high, HEIGHT - BOTTOM, TOP)
    parts = [
        *grid(x_axis, y_axis, title, x_label),
        *([horizontal(y_axis, level, "target")] if level is not None and low <= level <= high else []),
        *([horizontal(y_axis, 0.0, "zero")] if low < 0 < high else []),
    ]
    for line in lines:
        parts += drawn(line, x_axis, y_axis)
    return svg(parts, WIDTH, HEIGHT, title)


def drawn(line: Line, x_axis: Axis, y_axis: Axis) -> list[str]:
    """One curve."""
    colour = f"c{line.colour % NUM_COLOURS}"
    band = points([*line.x, *reversed(line.x)], [*line.low, *reversed(line.high)], x_axis, y_axis)
    dash = DASHES[line.colour // NUM_COLOURS % len(DASHES)]
    thin = [f'<polyline class="thin {colour}" points="{points(x, y, x_axis, y_axis)}"/>' for x, y in line.seeds]
    return [
        f'<polygon class="band {colour}" points="{band}"/>',
        *thin,
        f'<polyline class="line {colour}" stroke-dasharray="{dash}" points="{points(line.x, line.y, x_axis, y_axis)}">'
        f"<title>{escape(line.label)}</title></polyline>",
    ]


def points(x: Sequence[float], y: Sequence[float], x_axis: Axis, y_axis: Axis) -> str:
    """As SVG writes them; what lies beyond the picture is drawn at its edge."""
    inside = (min(max(value, y_axis.low), y_axis.high) for value in y)
    return " ".join(f"{x_axis.at(a):g},{y_axis.at(b):g}" for a, b in zip(x, inside, strict=True))


def grid(x_axis: Axis, y_axis: Axis, title: str, x_label: str) -> list[str]:
    """Title, lines at round numbers, and what they are."""
    parts = [f'<text class="head" x="{LEFT}" y="16">{escape(title)}</text>']
    for value in ticks(y_axis.low, y_axis.high):
        y = y_axis.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y + 4:g}">{short(value)}</text>')
    for value in ticks(x_axis.low, x_axis.high):
        x = x_axis.at(value)
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x:g}" y="{HEIGHT - BOTTOM + 16}">{short(value)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, f'<text class="tick" text-anchor="middle" x="{middle:g}" y="{HEIGHT - 6}">{escape(x_label)}</text>']


def horizontal(y_axis: Axis, value: float, kind: str) -> str:
    """A line across."""
    y = y_axis.at(value)
    return f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}"/>'


def intervals(rows: Sequence[Interval], *, title: str, x_label: str, tick: Callable[[float], str] | None = None) -> str:
    """A row an interval: a dot, a bar and the number; a line at 0, where nothing differs. `tick` writes a number."""
    tick = tick or short
    label_width = 8 + 6.6 * max(len(row.label) for row in rows)
    values = [x for row in rows for x in (row.low, row.middle, row.high) if x is not None]
    low, high = padded(min([*values, 0.0]), max([*values, 0.0]))
    height, width = TOP + ROW * len(rows) + BOTTOM, max(WIDTH, label_width + LEAST_WIDTH)
    axis = Axis(low, high, label_width, width - 60)
    parts = [f'<text class="head" x="0" y="16">{escape(title)}</text>']
    for value in ticks(low, high):
        x = axis.at(value)
        parts.append(f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x:g}" y="{height - BOTTOM + 16}">{tick(value)}</text>'
        )
    x = axis.at(0.0)
    parts.append(f'<line class="zero" x1="{x:g}" x2="{x:g}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    for place, row in enumerate(rows):
        parts += interval_row(row, axis, TOP + ROW * (place + 0.5), width, tick)
    middle = (label_width + width - 60) / 2
    parts.append(f'<text class="tick" text-anchor="middle" x="{middle:g}" y="{height - 6}">{escape(x_label)}</text>')
    return svg(parts, width, height, title)


def interval_row(row: Interval, axis: Axis, y: float, width: float, tick: Callable[[float], str]) -> list[str]:
    """Label, bar, dot and number."""
    colour = "grey" if row.colour is None else f"c{row.colour % NUM_COLOURS}"
    x = axis.at(row.middle)
    bar = (
        []
        if row.low is None or row.high is None
        else [
            f'<line class="bar {colour}" x1="{axis.at(row.low):g}" x2="{axis.at(row.high):g}" y1="{y:g}" y2="{y:g}"/>'
        ]
    )
    return [
        f'<text class="label" x="0" y="{y + 4:g}">{escape(row.label)}</text>',
        *bar,
        f'<circle class="dot {colour}" cx="{x:g}" cy="{y:g}" r="4.5"/>',
        f'<text class="tick" text-anchor="end" x="{width:g}" y="{y + 4:g}">{tick(row.middle)}</text>',
    ]


def svg(parts: Sequence[str], width: float, height: float, title: str) -> str:
    """The picture, as wide as the page lets it."""
    inside = "\n".join(parts)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">\n{inside}\n</svg>'


def padded(low: float, high: float) -> tuple[float, float]:
    """A little room on both sides; around a single number some.

    >>> padded(0.0, 1.0)
    (-0.06, 1.06)
    """
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.0, 1.0), ticks(0.0, 300_000.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 50000.0, 100000.0, 150000.0, 200000.0, 250000.0, 300000.0])
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(number: float) -> str:
    """A number on an axis.

    >>> short(40), short(2500), short(1e6), short(-0.5), short(0.0)
    ('40', '2.5k', '1M', '-0.5', '0')
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"
