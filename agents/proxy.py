"""What a run optimizes beside what it only watches: parts of the reward with weight 0, a true reward say.

Over-optimization is the first rising while the second falls (Gao et al., arXiv 2210.10760). Both are drawn in standard
deviations of the first iteration's completions, those of the untrained policy, above their mean: units do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agents.report import COLOURS, Record, dress, write_picture

PROXY = "reward"


def watched_parts(reward: Any) -> list[str]:
    """The names of the parts with weight 0 among the settings of a reward."""
    parts = reward.items() if isinstance(reward, Mapping) else ()
    return [name for name, part in parts if isinstance(part, Mapping) and part.get("weight") == 0]


def truth_summary(records: Sequence[Record], watched: Iterable[str]) -> dict[str, dict[str, float]]:
    """For `reward` (what is optimized) and each watched part: the mean at first, at best, with its iteration, and last.

    A part that nothing could be said of has no entry.
    """
    series = {name: _points(records, name) for name in (PROXY, *watched)}
    return {
        name: {
            "first": float(mean[0]),
            "best": float(mean.max()),
            "best_iteration": int(iteration[mean.argmax()]),
            "last": float(mean[-1]),
        }
        for name, (iteration, mean) in series.items()
        if len(mean)
    }


def tell_truth(summary: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each."""
    return [
        f"  {name} ({'optimized' if name == PROXY else 'watched'}): {of['first']:.2f} at first, "
        f"{of['best']:.2f} at best (iteration {of['best_iteration']}), {of['last']:.2f} at the end"
        for name, of in summary.items()
    ]


def standardized(records: Sequence[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """`(iteration, value)`: the means less the first one, over the first standard deviation (1 where that is 0)."""
    iteration, mean = _points(records, name)
    spread = next((r[f"{_metric(name)}/std"] for r in records if r.get("iteration") == iteration[0]), 0.0)
    return iteration, (mean - mean[0]) / (spread or 1.0)


def draw_proxy_and_truth(records: Sequence[Record], watched: Sequence[str], path: Path, *, title: str = "") -> None:
    """What is optimized and what is watched by iteration and, where it was measured, by the distance from the reference
    policy, sqrt(KL) as in Gao et al."""
    distance = {
        int(r["iteration"]): max(0.0, r["kl/row"]) ** 0.5 for r in records if np.isfinite(r.get("kl/row", np.nan))
    }
    figure = Figure(figsize=(5.2 * (1 + bool(distance)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, 1 + bool(distance), squeeze=False).flat)
    for colour, name in zip(COLOURS, (PROXY, *watched), strict=False):
        if not len(_points(records, name)[0]):
            continue
        iteration, value = standardized(records, name)
        label = "optimized: reward" if name == PROXY else f"only watched: {name}"
        axes[0].plot(iteration, value, color=colour, linewidth=2, label=label)
        if distance:
            known = [(distance[i], y) for i, y in zip(iteration.tolist(), value, strict=True) if i in distance]
            axes[1].plot(*np.array(known).reshape(-1, 2).T, ".", color=colour, markersize=5)
    dress(axes[0], "Standard deviations of the untrained policy", "iteration")
    if distance:
        dress(axes[1], "The same by distance from it", "square root of the KL per episode (nats)")
    axes[0].legend(frameon=False, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    write_picture(figure, path)


def _metric(name: str) -> str:
    return PROXY if name == PROXY else f"rewards/{name}"


def _points(records: Sequence[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and means, where there are finite ones."""
    key = f"{_metric(name)}/mean"
    points = [(int(r["iteration"]), r[key]) for r in records if np.isfinite(r.get(key, np.nan))]
    return np.array([i for i, _ in points], dtype=int), np.array([y for _, y in points], dtype=float)
