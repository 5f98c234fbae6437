"""A comparison of agents as one HTML file that opens from disk: verdicts, pictures, numbers, settings, origin.

It loads nothing and runs nothing: pictures are SVG inside of the page, and its own policy forbids any other source.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from benchmarks.bootstrap import estimate
from benchmarks.contest_table import (
    HONESTY,
    commands,
    compared,
    difference_cell,
    memory_remark,
    numbers,
    origin,
    p_cell,
    verdict_cell,
    warnings,
)
from benchmarks.reaching import AMOUNTS
from benchmarks.svg import NUM_COLOURS, Interval, Line, curves, intervals

LIGHT = ("#0072B2", "#D55E00", "#009E73", "#A8498B", "#B07500", "#3A86B8", "#5B5B5B")
DARK = ("#56B4E9", "#F0894A", "#2FCFA0", "#E39CC8", "#F0B840", "#9AD0F0", "#BBBBBB")
"""Okabe and Ito's, a little darker and lighter, so that both stand out from their background."""
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1c1c1c; --soft: #5c5c5c; --rule: #dddddd; --card: #f5f6f7;
  LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #16181a; --text: #e8e8e6; --soft: #a4a4a2; --rule: #3a3d40;
  --card: #212427; DARK } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 1180px;
  margin: 2em auto; padding: 0 1.2em; }
h1 { font-size: 1.6em; margin-bottom: .2em; } h2 { font-size: 1.15em; margin: 2em 0 .6em; }
p { max-width: 78ch; } .soft, figcaption { color: var(--soft); font-size: .9em; }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
.verdict { background: var(--card); border-left: 5px solid var(--soft); padding: .6em 1em; margin: .5em 0;
  max-width: 78ch; } .verdict.win { border-color: var(--c2); } .verdict.warn { border-color: var(--c1); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 1.2em 2em; }
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92em; } th, td { text-align: left; padding: .3em .9em .3em 0;
  border-bottom: 1px solid var(--rule); vertical-align: top; } th { font-weight: 600; }
td { font-variant-numeric: tabular-nums; } pre { background: var(--card); padding: .8em 1em; overflow-x: auto; }
.legend span { margin-right: 1.4em; white-space: nowrap; } .swatch { display: inline-block; width: 1.6em; height: .3em;
  vertical-align: middle; margin-right: .4em; background: currentColor; }
svg text { fill: var(--text); font-family: system-ui, sans-serif; } svg .head { font-size: 13px; font-weight: 600; }
svg .tick { font-size: 11px; fill: var(--soft); } svg .label { font-size: 12px; }
svg .grid { stroke: var(--rule); } svg .zero { stroke: var(--soft); stroke-width: 1.2; }
svg .target { stroke: var(--soft); stroke-dasharray: 4 4; }
svg .line { fill: none; stroke: currentColor; stroke-width: 2.2; } svg .thin { fill: none; stroke: currentColor;
  stroke-width: .8; opacity: .45; } svg .band { fill: currentColor; opacity: .14; }
svg .bar { stroke: currentColor; stroke-width: 2.5; } svg .dot { fill: currentColor; } .grey { color: var(--soft); }
"""


def report(results: Mapping[str, Any]) -> str:
    """The whole page."""
    names = list(results["agents"])
    title = f"{' against '.join(names)}: {results['task']}, {results['model']}"
    body = [
        f"<h1>{escape(' against '.join(names))}</h1>",
        f"<p>Task <code>{escape(results['task'])}</code>, model <code>{escape(results['model'])}</code> "
        f"({escape(results['device'])}, {escape(results['precision'])}). {escape(compared(results))}</p>",
        *verdicts(results),
        *section("Learning", legend(names), plots(learning(results))),
        *section("Differences", legend(names), plots(differences(results))),
        *section("Numbers", table(["", *names], [[name, *cells] for name, cells in numbers(results).items()])),
        *other_verdicts(results),
        *section("How to read the intervals", f"<p>{marked(HONESTY)}</p>"),
        *section("Every run", runs_table(results)),
        *section("Settings and origin", *settings(results)),
    ]
    return page(title, body)


def page(title: str, body: Sequence[str]) -> str:
    """The frame: colours for a light and a dark screen, and a policy under which nothing can be loaded."""
    light, dark = ("".join(f"--c{i}: {colour}; " for i, colour in enumerate(some)) for some in (LIGHT, DARK))
    classes = "".join(f".c{i} {{ color: var(--c{i}); }} " for i in range(NUM_COLOURS))
    style = STYLE.replace("LIGHT", light).replace("DARK", dark) + classes
    inside = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{inside}\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> list[str]:
    """A heading and what belongs to it; nothing where there is nothing."""
    there = [part for part in parts if part]
    return [f"<h2>{escape(title)}</h2>", *there] if there else []


def marked(text: str) -> str:
    """Escaped, with `code` as code.

    >>> marked("`a` < b")
    '<code>a</code> &lt; b'
    """
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """Who is better in held-out accuracy, and what a reader must know before believing it."""
    first = [c for c in results["comparisons"] if c["quantity"] == "held-out accuracy"]
    cards = [f'<p class="verdict {"win" if c["winner"] else ""}">{marked(c["words"])}</p>' for c in first]
    cards += [f'<p class="verdict warn">{marked(text)}</p>' for text in warnings(results)]
    return section("Verdict", *cards)


def legend(names: Sequence[str]) -> str:
    """Which colour is whose."""
    spans = (f'<span><i class="swatch c{i % NUM_COLOURS}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<p class="legend">{"".join(spans)}</p>'


def plots(pictures: Sequence[tuple[str, str]]) -> str:
    """Pictures with a line below each."""
    figures = (f"<figure>{picture}<figcaption>{escape(below)}</figcaption></figure>" for picture, below in pictures)
    return f'<div class="plots">{"".join(figures)}</div>' if pictures else ""


def learning(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Accuracy over tokens and over seconds, reward over tokens, pass@k."""
    target = results["target_accuracy"]
    several = len(results["seeds"]) > 1
    below = "Mean over seeds; shaded from the lowest to the highest seed, each seed a thin line." if several else ""
    out = [
        (
            curves(
                lines_of(results, "eval/accuracy", x),
                title="Held-out accuracy",
                x_label=label,
                y_range=(-0.03, 1.03),
                level=target,
            ),
            f"{below} Dashed: the target, {target:g}.",
        )
        for x, label in (("num_tokens", "generated tokens"), ("time/train_seconds", "seconds of training"))
    ]
    rewards = lines_of(results, "reward/mean", "num_tokens")
    if rewards:
        out.append((curves(rewards, title="Reward", x_label="generated tokens"), below))
    by_k = [
        pass_line(name, agent["pass_at"], i)
        for i, (name, agent) in enumerate(results["agents"].items())
        if len(agent["pass_at"]) > 1
    ]
    if by_k:
        note = f"Unbiased, from {results['samples']} answers to each problem; shaded: {results['level']:.0%} intervals."
        out.append((curves(by_k, title="pass@k at the end", x_label="k", y_range=(-0.03, 1.03)), note))
    return out


def pass_line(name: str, pass_at: Mapping[str, Mapping[str, float]], colour: int) -> Line:
    """pass@k over k."""
    mean, low, high = ([at[bound] for at in pass_at.values()] for bound in ("mean", "low", "high"))
    return Line(name, [int(k) for k in pass_at], mean, low, high, colour=colour)


def lines_of(results: Mapping[str, Any], metric: str, x: str) -> list[Line]:
    """A line an agent: its seeds where all of them have been, between their points by straight lines; none where they
    have no place in common."""
    out = []
    for i, name in enumerate(results["agents"]):
        seeds = [points(run, metric, x) for run in results["runs"] if run["name"] == name]
        grid, values = common(seeds)
        if not len(grid):
            continue
        mean, low, high = values.mean(0), values.min(0), values.max(0)
        thin = [] if len(seeds) == 1 else [(xs.tolist(), ys.tolist()) for xs, ys in seeds]
        out.append(Line(name, grid.tolist(), mean.tolist(), low.tolist(), high.tolist(), thin, i))
    return out


def points(run: Mapping[str, Any], metric: str, x: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the curve of a run has this metric."""
    there = [(point[x], point[metric]) for point in run["curve"] if metric in point]
    xs, ys = zip(*there, strict=True)
    return np.array(xs, float), np.array(ys, float)


def common(seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The points of all seeds that all of them reach, and each seed's values there."""
    start, end = max(xs[0] for xs, _ in seeds), min(xs[-1] for xs, _ in seeds)
    grid = np.unique(np.concatenate([xs for xs, _ in seeds]))
    grid = grid[(grid >= start) & (grid <= end)]
    return grid, np.stack([np.interp(grid, xs, ys) for xs, ys in seeds])


def differences(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Intervals of every pair, and how the differences to the first agent went on the way."""
    found = results["comparisons"]
    shares = [c for c in found if not c["is_ratio"]]
    ratios = [c for c in found if c["is_ratio"]]
    level = f"{results['level']:.0%} intervals"
    coloured = "coloured as the better agent where the difference is significant, else grey"
    out = []
    if shares:
        picture = intervals(
            [interval(c, results) for c in shares],
            title="Difference in share of problems",
            x_label="second minus first",
            tick=lambda x: f"{x:+.3f}".replace("+0.000", "0"),
        )
        out.append((picture, f"{level}; {coloured}."))
    if ratios:
        picture = intervals(
            [interval(c, results) for c in ratios],
            title="What it takes to reach the target",
            x_label="second over first; below 1 the second is faster",
            tick=lambda x: f"{2**x:.3g}",
        )
        out.append((picture, f"{level}; {coloured}. Runs that never reached it are cut off where they ended."))
    return out + on_the_way(results)


def interval(c: Mapping[str, Any], results: Mapping[str, Any]) -> Interval:
    """A row of the picture; ratios on a scale of doublings."""
    colour = None if c["winner"] is None else list(results["agents"]).index(c["winner"])
    numbers = (c["estimate"], c["low"], c["high"])
    if c["is_ratio"]:
        middle, low, high = (None if x is None else math.log2(x) for x in numbers)
        label = f"{c['quantity']}: {c['second']} / {c['first']}"
    else:
        middle, low, high = numbers
        label = f"{c['quantity']}: {c['second']} \u2212 {c['first']}"
    assert middle is not None
    return Interval(label, middle, low, high, colour)


def on_the_way(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Accuracy of each agent minus the first's after equal tokens, seed by seed."""
    first, *others = results["agents"]
    by_seed = {(run["name"], run["seed"]): points(run, "eval/accuracy", "num_tokens") for run in results["runs"]}
    lines = []
    for i, name in enumerate(others, start=1):
        seeds = [seed for seed in results["seeds"] if {(first, seed), (name, seed)} <= by_seed.keys()]
        if len(seeds) < 2:
            continue
        pairs = [common([by_seed[first, seed], by_seed[name, seed]]) for seed in seeds]
        grid, values = common([(xs, ys[1] - ys[0]) for xs, ys in pairs])
        found = [estimate(column[:, None], level=results["level"], draws=1000) for column in values.T]
        mean, low, high = ([getattr(e, bound) for e in found] for bound in ("mean", "low", "high"))
        lines.append(Line(f"{name} minus {first}", grid.tolist(), mean, low, high, colour=i))
    if not lines:
        return []
    ends = [y for line in lines for y in (*line.low, *line.high)]
    y_range = (max(-1.05, min(*ends, -0.05) * 1.05), min(1.05, max(*ends, 0.05) * 1.05))
    title = f"Held-out accuracy minus that of {first}, after equal tokens"
    note = f"Shaded: {results['level']:.0%} intervals over seeds, point by point (not corrected for their number)."
    return [(curves(lines, title=title, x_label="generated tokens", y_range=y_range), note)]


def other_verdicts(results: Mapping[str, Any]) -> list[str]:
    """The quantities besides held-out accuracy."""
    others = [c for c in results["comparisons"] if c["quantity"] != "held-out accuracy"]
    rows = [
        [
            c["quantity"],
            f"`{c['second']}` {'/' if c['is_ratio'] else '-'} `{c['first']}`",
            difference_cell(c),
            p_cell(c),
            verdict_cell(c),
        ]
        for c in others
    ]
    note = "<p class=soft>Each corrected for its own number of pairs, not for the number of quantities.</p>"
    head = ["", "", f"difference or ratio ({results['level']:.0%} interval)", "p", "better"]
    return section("Other quantities", table(head, rows), note) if rows else []


def runs_table(results: Mapping[str, Any]) -> str:
    """Every run, those that broke off too."""
    target = results["target_accuracy"]
    head = ["agent", "seed", "before", "after", *(f"{name} to {target:g}" for name in AMOUNTS), "tokens", "seconds", ""]
    rows = [
        [
            run["name"],
            str(run["seed"]),
            f"{run['before']['eval/accuracy']:.3f}",
            f"{run['accuracy']:.3f}",
            *(f"{'more than ' if run['reached']['censored'] else ''}{run['reached'][name]:,.0f}" for name in AMOUNTS),
            f"{run['tokens']:,}",
            f"{run['seconds']:.0f}",
            "" if same_code(run, results) else f"kept from {run['measured']['date']}",
        ]
        for run in results["runs"]
    ]
    rows += [[f["name"], str(f["seed"]), "", "", "", "", "", "", "broke off"] for f in results["failures"]]
    return table(head, rows)


def same_code(run: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
    """Whether a run is of this commit."""
    return run["measured"]["code"]["commit"] == results["code"]["commit"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are text with `code` in it."""
    first = "".join(f"<th>{marked(cell)}</th>" for cell in head)
    rest = "".join(f"<tr>{''.join(f'<td>{marked(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{first}</tr></thead><tbody>\n{rest}</tbody></table></div>'


def settings(results: Mapping[str, Any]) -> list[str]:
    """How to repeat it."""
    parts = [f"<p>{marked(origin(results))}</p>", f"<p class=soft>{escape(memory_remark(results))}</p>"]
    for name, command in commands(results).items():
        composed = json.dumps(results["agents"][name]["settings"], indent=2)
        parts.append(
            f"<details><summary>{escape(name)}: command and settings of the agent</summary>"
            f"<p><code>{escape(command)}</code></p><pre>{escape(composed)}</pre></details>"
        )
    for failure in results["failures"]:
        parts.append(
            f"<details open><summary>{escape(failure['name'])}, seed {failure['seed']}, broke off</summary>"
            f"<pre>{escape(failure['reason'])}</pre></details>"
        )
    return parts
