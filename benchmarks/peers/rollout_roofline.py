"""The bound that this machine sets to the workloads of `benchmarks.rollout`, from rates measured on the spot.

A decode step costs at least its matrix products (every linear of the model and the head, at the number of rows that
are still live, each with weights of its own, so that they come from memory, in the fastest way that torch has) or
reading the weights, whichever takes longer, and then reading the keys and values. The prompt costs its linears over all
different prompts and the head on one row each. Attention's own arithmetic, norms, sampling and everything between are
counted as nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.peers.answering import answer

REPEATS = 3
READ_BYTES = 2**28

Linear = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured, for one model and number format."""

    rows: Sequence[int]
    """Rows of a decode step that were tried, ascending."""
    step_seconds: Sequence[float]
    """All linears and the head, at each of them."""
    prompt_seconds: float
    """The linears over all prompt tokens, the head on a row a prompt."""
    bytes_per_second: float
    weight_bytes: int
    kv_bytes: int
    """Keys and values of one token."""


def bound(rates: Rates, prompts: Sequence[Sequence[int]], samples: int, lengths: Sequence[int]) -> dict[str, float]:
    """Seconds of the prompts and of all decode steps. The first token comes with the prompt."""
    at = np.repeat([len(prompt) for prompt in prompts], samples)
    wanted = np.asarray(lengths)
    decode = 0.0
    for step in range(1, int(wanted.max())):
        live = wanted > step
        products = float(np.interp(live.sum(), rates.rows, rates.step_seconds))
        keys = int((at[live] + step).sum()) * rates.kv_bytes
        decode += max(products, rates.weight_bytes / rates.bytes_per_second) + keys / rates.bytes_per_second
    return {"prefill": rates.prompt_seconds, "decode": decode}


def load(settings: dict[str, Any]) -> dict[str, Any]:
    """The linears of the model with random weights, and nothing else of it."""
    torch.set_num_threads(settings["threads"])
    device, dtype = torch.device(settings["device"]), getattr(torch, settings["precision"])
    config = AutoConfig.from_pretrained(settings["model"]).get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    weights = [torch.randn(m.weight.shape, device=device).mul_(0.02).to(dtype) for m in linears]
    head_weight = torch.randn(head.weight.shape, device=device).mul_(0.02).to(dtype)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_bytes = 2 * config.num_hidden_layers * heads * size * dtype.itemsize
    weight_bytes = sum(w.numel() for w in (*weights, head_weight)) * dtype.itemsize
    work = json.loads(Path(settings["work"]).read_text())
    memory = torch.ones(READ_BYTES // 4, device=device)

    kinds = linear_kinds([*weights, head_weight], device, len(work["different"]["lengths"]))

    @torch.no_grad()
    def products(rows: int, head_rows: int) -> float:
        widths = {w.shape[1] for w in weights}
        inputs = {width: torch.randn(rows, width, device=device, dtype=dtype) for width in widths}
        last = torch.randn(head_rows, head_weight.shape[1], device=device, dtype=dtype)
        given = [*(inputs[weight.shape[1]] for weight in weights), last]

        def all_of_them(linear: Linear, packed: Sequence[torch.Tensor]) -> None:
            for x, weight in zip(given, packed, strict=True):
                linear(x, weight)

        return min(fastest(partial(all_of_them, linear, packed), device) for linear, packed in kinds)

    def measure(workload: str, new: int | None = None) -> dict[str, Any]:
        one = work[workload]
        lengths = [min(length, new or length) for length in one["lengths"]]
        tried = [1] if len(lengths) == 1 else [*doubling(len(lengths), all_counts=len(set(lengths)) > 1)]
        rates = Rates(
            rows=tried,
            step_seconds=[products(rows, rows) for rows in tried] if max(lengths) > 1 else [0.0] * len(tried),
            prompt_seconds=products(sum(map(len, one["prompts"])), len(one["prompts"])),
            bytes_per_second=READ_BYTES / fastest(memory.sum, device),
            weight_bytes=weight_bytes,
            kv_bytes=kv_bytes,
        )
        seconds = bound(rates, one["prompts"], one["samples"], lengths)
        flops = 2 * sum(w.numel() for w in weights) + 2 * head_weight.numel()
        return {
            "seconds": sum(seconds.values()),
            "lengths": lengths,
            "device_peak_gb": None,
            "read_gb_per_second": rates.bytes_per_second / 1e9,
            "step_gflops": flops * tried[-1] / rates.step_seconds[-1] / 1e9 if max(lengths) > 1 else None,
        }

    return {"measure": measure}


def linear_kinds(
    weights: Sequence[torch.Tensor], device: torch.device, rows: int
) -> list[tuple[Linear, Sequence[torch.Tensor]]]:
    """The ways to multiply that torch has here, the weights as each wants them: the bound takes the fastest.

    On a CPU oneDNN can be given weights that are laid out for it once, which in float32 can be twice as fast.
    """
    kinds: list[tuple[Linear, Sequence[torch.Tensor]]] = [(nn.functional.linear, weights)]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        try:
            packed = [torch.ops.mkldnn._reorder_linear_weight(weight, rows) for weight in weights]
            first = torch.zeros(1, weights[0].shape[1], dtype=weights[0].dtype)
            prepacked(first, packed[0])
        except (AttributeError, NotImplementedError, RuntimeError):  # another build of torch
            return kinds
        kinds.append((prepacked, packed))
    return kinds


def prepacked(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A linear whose weight oneDNN has laid out."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def doubling(most: int, *, all_counts: bool) -> list[int]:
    """Powers of two below `most`, and `most`; that one alone where no row ends before the others.

    >>> doubling(12, all_counts=True), doubling(12, all_counts=False)
    ([1, 2, 4, 8, 12], [12])
    """
    return [*(2**k for k in range((most - 1).bit_length())), most] if all_counts else [most]


def fastest(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the best of a few calls behind one that does not count.

    On a GPU the calls are captured, so that launching them from Python is not what is measured.
    """
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        run = graph.replay
        run()
    times = []
    for _ in range(REPEATS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    answer(load)
