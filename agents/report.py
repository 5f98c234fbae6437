"""Learning curves as a picture: a panel a quantity, a colour a label, the spread over seeds shaded."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import LineStyleType

from agents.checkpoint import write_atomically

Record = Mapping[str, float]
XAxis = Literal["iteration", "num_tokens", "time/train_seconds"]

X_AXES = {"iteration": "iteration", "num_tokens": "generated tokens", "time/train_seconds": "seconds of training"}
INTEGER_AXES = ("iteration", "generated tokens")
PANELS = (
    ("eval/accuracy", "Held-out accuracy"),
    ("reward/mean", "Reward"),
    ("completions/mean_length", "Completion length (tokens)"),
    ("entropy", "Entropy (nats per token)"),
    ("kl", "KL to the reference"),
    ("value_loss", "Value loss"),
    ("explained_variance", "Explained variance of the critic"),
)
"""Metric and title; a metric that no run has gets no panel."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
LINES: tuple[LineStyleType, ...] = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True)
class Curve:
    """The runs of one label on a common axis: R runs at X points."""

    x: np.ndarray
    """X."""
    y: np.ndarray
    """R, X."""
    deviation: np.ndarray | None = None
    """X. The standard deviation within a single run's batches, where it was recorded."""


def draw_curves(
    runs: Mapping[str, Sequence[Record] | Sequence[Sequence[Record]]],
    path: Path | str,
    *,
    x: XAxis = "iteration",
    title: str = "",
) -> None:
    """Draw the records of one or several runs to a PNG.

    `runs` maps a label to the records of a run, or to a list of such runs that differ in their seed. Several seeds
    are drawn as their mean, with the range from the lowest to the highest shaded and every seed as a thin line; a
    single run's reward is shaded by its standard deviation over completions. Seeds are compared over the range of `x`
    that all of them cover, interpolated between their points. The file is written at once or not at all. Raises
    `ValueError` for an unknown `x`, and when no run has any of the quantities that are drawn.
    """
    if x not in X_AXES:
        raise ValueError(f"x must be one of {', '.join(X_AXES)}, got {x!r}")
    seeds = {label: _as_seeds(records) for label, records in runs.items()}
    panels = {
        (metric, name): curves
        for metric, name in PANELS
        if (curves := {label: c for label, s in seeds.items() if (c := _curve(s, metric, x)) is not None})
    }
    if not panels:
        raise ValueError(f"nothing to draw: no run has {x} together with any of {', '.join(m for m, _ in PANELS)}")
    columns = min(len(panels), 3 if len(panels) <= 6 else 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.3 * columns, 2.9 * rows + (0.7 if title or len(seeds) > 1 else 0)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    styles = {
        label: (COLOURS[i % len(COLOURS)], LINES[i // len(COLOURS) % len(LINES)]) for i, label in enumerate(seeds)
    }
    for ax, ((metric, name), curves) in zip(axes, panels.items(), strict=False):
        for label, curve in curves.items():
            _draw(ax, curve, *styles[label])
        if any(curve.deviation is not None for curve in curves.values()):
            name = f"{name} (mean ± std of completions)"
        dress(ax, name, X_AXES[x])
        _limit(ax, metric)
    for ax in axes[len(panels) :]:
        ax.remove()
    _head(figure, title, seeds, styles)
    write_picture(figure, path)


def write_picture(figure: Figure, path: Path | str) -> None:
    """As a PNG, at once or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130, facecolor="white")
    write_atomically(path, picture.getvalue())


def dress(ax: Axes, name: str, x: str) -> None:
    """A panel's title, axes and grid."""
    ax.set_title(name, fontsize=11, loc="left", fontweight="bold", color="#222222")
    ax.set_xlabel(x, fontsize=9, color="#444444")
    ax.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#AAAAAA")
    ax.tick_params(labelsize=9, color="#AAAAAA", labelcolor="#444444")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=x in INTEGER_AXES))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: _short(number)))
    ax.margins(x=0.02)


def _as_seeds(records: Any) -> list[list[Record]]:
    """A label's runs, whether one or several were given."""
    return [list(records)] if records and isinstance(records[0], Mapping) else [list(r) for r in records]


def _points(records: Sequence[Record], metric: str, x: str) -> np.ndarray:
    """The finite points of one run, 2 by X, in the order of x."""
    points = np.array([(r[x], r[metric]) for r in records if metric in r and x in r], dtype=float).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    return points[np.argsort(points[:, 0], kind="stable")].T


def _curve(seeds: Sequence[Sequence[Record]], metric: str, x: str) -> Curve | None:
    """A label's runs on a common axis; None when none of them has a point."""
    points = [p for records in seeds if (p := _points(records, metric, x)).size]
    if not points:
        return None
    if len(points) == 1:
        deviation = None
        if metric == "reward/mean":
            spread = _points(seeds[0] if len(seeds) == 1 else [], "reward/std", x)
            if np.array_equal(spread[0], points[0][0]):
                deviation = spread[1]
        return Curve(points[0][0], points[0][1][None], deviation)
    start, end = max(p[0, 0] for p in points), min(p[0, -1] for p in points)
    grid = np.unique(np.concatenate([p[0] for p in points]))
    grid = grid[(grid >= start) & (grid <= end)]
    if not grid.size:
        return None
    return Curve(grid, np.stack([np.interp(grid, *p) for p in points]))


def _draw(ax: Axes, curve: Curve, colour: str, line: LineStyleType) -> None:
    mean = curve.y.mean(0)
    marker = "o" if len(curve.x) <= 12 else None
    ax.plot(curve.x, mean, linestyle=line, color=colour, linewidth=2, marker=marker, markersize=3.5, zorder=3)
    if curve.deviation is not None:
        ax.fill_between(curve.x, mean - curve.deviation, mean + curve.deviation, color=colour, alpha=0.15, linewidth=0)
    if len(curve.y) > 1:
        ax.fill_between(curve.x, curve.y.min(0), curve.y.max(0), color=colour, alpha=0.15, linewidth=0)
        for y in curve.y:
            ax.plot(curve.x, y, color=colour, linewidth=0.7, alpha=0.4, zorder=2)


def _limit(ax: Axes, metric: str) -> None:
    if metric == "eval/accuracy":
        ax.set_ylim(-0.02, 1.02)
    elif metric in ("completions/mean_length", "entropy", "value_loss"):
        ax.set_ylim(bottom=0)


def _head(
    figure: Figure, title: str, seeds: Mapping[str, list[Any]], styles: Mapping[str, tuple[str, LineStyleType]]
) -> None:
    """The title, and a legend where there is something to tell apart."""
    if title:
        figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    if len(seeds) > 1 or any(len(s) > 1 for s in seeds.values()):
        handles = [_sample_line(*styles[label]) for label in seeds]
        labels = [f"{label} ({len(s)} seeds: mean and range)" if len(s) > 1 else label for label, s in seeds.items()]
        figure.legend(handles, labels, loc="outside upper right", ncols=min(len(seeds), 4), frameon=False, fontsize=10)


def _sample_line(colour: str, line: LineStyleType) -> Line2D:
    return Line2D([], [], color=colour, linestyle=line, linewidth=2)


def _short(number: float) -> str:
    """A number on an axis.

    >>> _short(40), _short(2500), _short(1e6), _short(0.5)
    ('40', '2.5k', '1M', '0.5')
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"
