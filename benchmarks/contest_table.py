"""A comparison of agents for people, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.reaching import Reach
from benchmarks.verdicts import times

HONESTY = (
    "Intervals come from a bootstrap that draws seeds, then problems (the same for all seeds), with replacement, and "
    "reads the spread of the means with Student's t: percentiles of a few seeds would be too narrow. They see which "
    "seeds and which problems there happened to be, as far as seeds scatter like a normal distribution. They cannot "
    "see a rare failure that no seed showed, other tasks, or other settings than these."
)


def table(results: Mapping[str, Any]) -> str:
    """Verdicts, numbers, remarks."""
    lines = [
        *heading(results),
        "",
        *verdict_lines(results),
        "",
        *number_rows(results),
        "",
        *second_verdicts(results),
        HONESTY,
        "",
        *remarks(results),
    ]
    return "\n".join(lines) + "\n"


def heading(results: Mapping[str, Any]) -> list[str]:
    """What was compared."""
    return [
        f"# {' against '.join(results['agents'])}: `{results['task']}`, `{results['model']}`",
        "",
        compared(results),
    ]


def compared(results: Mapping[str, Any]) -> str:
    """One sentence."""
    seeds = results["seeds"]
    sampled = f" and {results['samples']} sampled answers each" if results["samples"] else ""
    return (
        f"{results['tokens']:,} generated tokens a run, and the rest of its last iteration; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}) that give all agents "
        "the same initial weights and stream of problems; "
        f"{results['num_problems']} held-out problems, greedy{sampled}."
    )


def verdict_lines(results: Mapping[str, Any]) -> list[str]:
    """The verdicts in held-out accuracy, and what stands against them."""
    lines = [f"- {c['words']}" for c in results["comparisons"] if c["quantity"] == "held-out accuracy"]
    lines = lines or ["There is one agent: nothing is compared."]
    return [*lines, *(f"- **{text}**" for text in warnings(results))]


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing a verdict."""
    out = []
    for failure in results["failures"]:
        last = failure["reason"].strip().splitlines()[-1]
        out.append(f"{failure['name']}, seed {failure['seed']}, broke off and is left out, which flatters it: {last}")
    if results["unpaired_seeds"]:
        seeds = ", ".join(map(str, results["unpaired_seeds"]))
        out.append(f"The untrained policies of seeds {seeds} were not the same for all agents: the start was not fair.")
    groups: dict[str, list[str]] = {}
    for key in results["unequal_settings"]:
        groups.setdefault(key.partition(".")[0], []).append(key)
    for group, keys in groups.items():
        values = results["unequal_settings"][keys[0]]
        each = ", ".join(f"{name} {value}" for name, value in values.items())
        one = f"{keys[0]} ({each})"
        many = f"{len(keys)} settings of {group}, among them {one}"
        out.append(f"Not the agent's and not equal: {many if len(keys) > 1 else one}.")
    return out


def second_verdicts(results: Mapping[str, Any]) -> list[str]:
    """The other quantities, a row a pair."""
    others = [c for c in results["comparisons"] if c["quantity"] != "held-out accuracy"]
    if not others:
        return []
    rows = [
        f"| {c['quantity']} | `{c['second']}` {'/' if c['is_ratio'] else '-'} `{c['first']}` | {difference_cell(c)} | "
        f"{p_cell(c)} | {verdict_cell(c)} |"
        for c in sorted(others, key=lambda c: list(dict.fromkeys(o["quantity"] for o in others)).index(c["quantity"]))
    ]
    return [
        "Other quantities, each corrected for its own number of pairs and not for the number of quantities:",
        "",
        f"| | | difference or ratio ({results['level']:.0%} interval) | p | better |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]


def difference_cell(c: Mapping[str, Any]) -> str:
    """The number and its interval."""
    written = times if c["is_ratio"] else "{:+.3f}".format
    bound = f"{c['bound']} " if c["bound"] in ("at most", "at least") else ""
    note = " (undetermined: both have runs that never reached it)" if c["bound"] == "undetermined" else ""
    interval = "" if c["low"] is None else f" ({written(c['low'])} to {written(c['high'])})"
    return f"{bound}{written(c['estimate'])}{interval}{note}"


def p_cell(c: Mapping[str, Any]) -> str:
    """After the correction."""
    p = c["p_holm"]
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict_cell(c: Mapping[str, Any]) -> str:
    """Who, or that nobody is."""
    if c["p_holm"] is None:
        return "one seed cannot tell"
    return f"`{c['winner']}`" if c["winner"] else "no significant difference"


def number_rows(results: Mapping[str, Any]) -> list[str]:
    """The numbers of each agent."""
    agents = results["agents"]
    rows = numbers(results)
    lines = [f"| | {' | '.join(f'`{name}`' for name in agents)} |", "| --- |" + " --- |" * len(agents)]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def numbers(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Row by row; mean (lowest to highest seed) unless the row says otherwise."""
    agents = list(results["agents"].values())
    level, target = f"{results['level']:.0%} interval", results["target_accuracy"]
    rows = {f"held-out accuracy at the end ({level})": [interval_cell(a["accuracy_interval"]) for a in agents]}
    rows["the same, each seed"] = [listed(a["accuracy"]["1"], 3) for a in agents]
    for share in sorted(agents[0]["accuracy"])[:-1]:
        rows[f"after {float(share):.0%} of the tokens (lowest to highest seed)"] = [
            cell(a["accuracy"][share], 3) for a in agents
        ]
    for k in agents[0]["pass_at"]:
        rows[f"pass@{k} ({level})"] = [interval_cell(a["pass_at"][k]) for a in agents]
    rows |= {
        f"tokens to {target:g} (median, range)": [reach_cell(a["to_target"], "tokens") for a in agents],
        f"seconds of training to {target:g} (median, range)": [reach_cell(a["to_target"], "seconds") for a in agents],
        "seconds of training in all": [cell(a["seconds"], 1) for a in agents],
        "of these collecting / updating": [time_split(a) for a in agents],
        "seconds from start to end of the process": [cell(a["process_seconds"], 1) for a in agents],
        "generated tokens": [cell(a["tokens"], 0) for a in agents],
        "iterations": [cell(a["iterations"], 0) for a in agents],
        "optimizer steps": [cell(a["optimizer_steps"], 0) for a in agents],
        "reward since the last evaluation": [cell(a["reward"], 3) for a in agents],
        "peak memory (GB)": [cell(a["peak_memory_gb"], 3) for a in agents],
        "language models held": [str(a["models_held"]) for a in agents],
        "critic held": [a["critic"] for a in agents],
    }
    return rows


def cell(values: Mapping[str, Any], digits: int) -> str:
    """Mean and range.

    >>> cell({"min": 1.0, "mean": 1.5, "max": 2.0}, 1)
    '1.5 (1.0 to 2.0)'
    """
    low, middle, high = (f"{values[name]:,.{digits}f}" for name in ("min", "mean", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


def interval_cell(values: Mapping[str, Any]) -> str:
    """Mean and interval.

    >>> interval_cell({"mean": 0.5, "low": 0.25, "high": 0.75})
    '0.500 (0.250 to 0.750)'
    """
    interval = "" if values["low"] is None else f" ({values['low']:.3f} to {values['high']:.3f})"
    return f"{values['mean']:.3f}{interval}"


def listed(values: Mapping[str, Any], digits: int) -> str:
    """Every seed."""
    return ", ".join(f"{value:.{digits}f}" for value in values["seeds"])


def reach_cell(to_target: Mapping[str, Sequence[Any]], name: str) -> str:
    """When the target was reached; a run that never did took longer than any that did.

    >>> reach_cell({"tokens": [300.0, 100.0, 200.0], "seconds": [1, 1, 1], "censored": [True, False, False]}, "tokens")
    '200 (100 to more than 300); 1 of 3 never'
    """
    columns = (to_target[key] for key in ("seconds", "tokens", "censored"))
    runs = sorted((Reach(*row) for row in zip(*columns, strict=True)), key=lambda r: (r.censored, getattr(r, name)))
    never, count = sum(run.censored for run in runs), len(runs)
    if never == count:
        return f"never reached (more than {min(getattr(run, name) for run in runs):,.0f})"
    lower, upper = runs[(count - 1) // 2], runs[count // 2]
    if upper.censored:
        middle = f"more than {getattr(lower, name):,.0f}"
    else:
        middle = f"{(getattr(lower, name) + getattr(upper, name)) / 2:,.0f}"
    between = "" if count == 1 else f" ({runs[0].shown(name)} to {runs[-1].shown(name)})"
    return f"{middle}{between}" + (f"; {never} of {count} never" if never else "")


def time_split(agent: Mapping[str, Any]) -> str:
    """Shares of the training time."""
    collect, update = agent["collect_seconds"]["mean"], agent["update_seconds"]["mean"]
    return f"{collect / (collect + update):.0%} / {update / (collect + update):.0%}"


def remarks(results: Mapping[str, Any]) -> list[str]:
    """Where, when and how."""
    lines = [memory_remark(results), "", origin(results), ""]
    for run in results["runs"]:
        if run["measured"]["code"]["commit"] != results["code"]["commit"]:
            measured = run["measured"]
            lines += [
                f"{run['name']}, seed {run['seed']}: kept from {measured['date']}, {measured['code']['commit']}.",
                "",
            ]
    for name, command in commands(results).items():
        lines += [f"{name}: `{command}`", ""]
    return lines[:-1]


def memory_remark(results: Mapping[str, Any]) -> str:
    """What of the peak memory is no agent's."""
    return f"An idle process with everything imported takes {results['idle_memory_gb']:.3f} GB of the peak memory."


def origin(results: Mapping[str, Any]) -> str:
    """Machine, commit, date and command."""
    machine, code = results["machine"], results["code"]
    changed = f" with {code['changed_files']} changed files" if code["changed_files"] else ""
    return (
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"torch {machine['torch']}, {machine['accelerator'] or 'no accelerator'}. "
        f"Commit {code['commit']}{changed}. {results['date']}. `{results['command']}`"
    )


def commands(results: Mapping[str, Any]) -> dict[str, str]:
    """Of each agent, the first seed's."""
    return {name: next(r["command"] for r in results["runs"] if r["name"] == name) for name in results["agents"]}
