"""From single timings to medians, ratios and a table. Imports nothing that measures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

OURS = "ours"
PLAIN = {
    ("hf_generate", "different"): "hf_generate",
    ("hf_generate", "ragged_prompts"): "hf_generate_ragged",
    ("vllm", "different"): "vllm",
    ("vllm", "shared_prompts"): "vllm_shared_prompts",
    ("roofline", "different"): "roofline",
}
TITLES = {
    "different": "different prompts",
    "shared_prompts": "8 completions a prompt",
    "ragged_prompts": "ragged prompts",
    "ragged_lengths": "ragged prompts and lengths",
}


def cells_of(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One a system, workload and number format: medians over the rounds, without the warm-up (round 0)."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        if record["round"] > 0:
            groups.setdefault((record["system"], record["workload"], record["precision"]), []).append(record)
    cells = []
    for (system, workload, precision), group in groups.items():
        speeds = [record["tokens_per_second"] for record in group]
        peaks = [record["peak_gb"] for record in group if record["peak_gb"] is not None]
        cells.append(
            {
                "system": system,
                "workload": workload,
                "precision": precision,
                "tokens_per_second": statistics.median(speeds),
                "lowest": min(speeds),
                "highest": max(speeds),
                "seconds": statistics.median(record["seconds"] for record in group),
                "fastest_seconds": min(record["seconds"] for record in group),
                "prefill_seconds": statistics.median(record["prefill_seconds"] for record in group),
                "step_ms": statistics.median(record["step_ms"] for record in group),
                "peak_gb": max(peaks, default=None),
            }
        )
    return cells


def ratio_name(system: str, workload: str, precision: str, main_precision: str) -> str:
    """The key of a ratio.

    >>> ratio_name("vllm", "different", "bfloat16", "bfloat16"), ratio_name("vllm", "different", "float32", "bfloat16")
    ('vllm', 'vllm/float32')
    >>> ratio_name("hf_generate", "ragged_lengths", "bfloat16", "bfloat16")
    'hf_generate/ragged_lengths'
    """
    name = PLAIN.get((system, workload), f"{system}/{workload}")
    return name if precision == main_precision else f"{name}/{precision}"


def ratios(cells: Sequence[Mapping[str, Any]], *, main_precision: str) -> dict[str, float]:
    """Our speed over each other system's, on the same workload and number format; what is absent is left out."""
    ours = {(c["workload"], c["precision"]): c["tokens_per_second"] for c in cells if c["system"] == OURS}
    return {
        ratio_name(c["system"], c["workload"], c["precision"], main_precision): round(
            ours[c["workload"], c["precision"]] / c["tokens_per_second"], 3
        )
        for c in cells
        if c["system"] != OURS and (c["workload"], c["precision"]) in ours
    }


def table(
    cells: Sequence[Mapping[str, Any]],
    found: Mapping[str, float],
    absent: Mapping[str, str],
    numerics: Mapping[str, Mapping[str, float]],
    about: Mapping[str, Any],
    *,
    main_precision: str,
) -> str:
    """The numbers for people."""
    shape, machine, code = about["shape"], about["machine"], about["code"]
    lines = [
        f"# Rollouts of {about['model']}: {shape['rows']} rows, prompt {shape['prompt']}, {shape['new']} new tokens",
        "",
        "Generated tokens a second, those of finished rows not counted; medians of alternating rounds behind one that "
        "warms up. Prompts: the same call for one token. Ours is the whole `collect`; the bound counts matrix "
        "products and memory reads at the measured rates and nothing else.",
        "",
        "| workload | format | system | tokens/s | lowest to highest | prompts, s | ms a step | peak GB | ours / it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = {pair: k for k, pair in enumerate(dict.fromkeys((c["precision"], c["workload"]) for c in cells))}
    for c in sorted(cells, key=lambda c: order[c["precision"], c["workload"]]):
        ratio = found.get(ratio_name(c["system"], c["workload"], c["precision"], main_precision))
        shown = (
            TITLES.get(c["workload"], c["workload"]),
            c["precision"],
            c["system"],
            f"{c['tokens_per_second']:,.0f}",
            f"{c['lowest']:,.0f} to {c['highest']:,.0f}",
            f"{c['prefill_seconds']:.2f}",
            f"{c['step_ms']:.1f}",
            "-" if c["peak_gb"] is None or c["system"] == "roofline" else f"{c['peak_gb']:.1f}",
            "" if ratio is None else f"{ratio:.2f}",
        )
        lines.append(f"| {' | '.join(shown)} |")
    if absent:
        lines += ["", *(f"{system} is absent: {reason}" for system, reason in absent.items())]
    lines += ["", "What the sampler said of its tokens against `Policy.evaluate` on the same, difference in nats:", ""]
    lines += ["| format | mean | median | 90 % | 99 % | largest | k3 |", "|---|---|---|---|---|---|---|"]
    for precision, n in numerics.items():
        names = ("mean", "quantile_0.5", "quantile_0.9", "quantile_0.99", "max", "k3")
        lines.append(f"| {precision} | {' | '.join(f'{n[name]:.2g}' for name in names)} |")
    changed = f" with {code['changed_files']} changed files" if code["changed_files"] else ""
    where = f"{machine['processor']}, {machine['cores']} cores" + (
        f", {machine['accelerator']}" if machine["accelerator"] else ""
    )
    lines += [
        "",
        f"{where}, torch {machine['torch']}. Commit {code['commit']}{changed}. {about['date']}. `{about['command']}`",
        "",
    ]
    return "\n".join(lines)
