"""Hugging Face's `generate` on the workloads of `benchmarks.rollout`. Imports nothing of ours.

Equal prompts need no mask and ragged ones are padded on the left. Nothing filters the distribution, and the end token
counts only where lengths are forced.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList


class EndAt(LogitsProcessor):
    """Row i gets the end token as its `lengths[i]`-th and never before."""

    def __init__(self, lengths: torch.Tensor, end: int, prompt: int) -> None:
        self.lengths, self.end, self.prompt = lengths, end, prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits in which the end is either certain or impossible."""
        ends = self.lengths == input_ids.shape[1] - self.prompt + 1
        scores = scores.masked_fill(ends[:, None], float("-inf"))
        scores[:, self.end] = torch.where(ends, 0.0, float("-inf"))
        return scores


def load(settings: dict[str, Any]) -> dict[str, Any]:
    """The model as transformers loads it."""
    torch.set_num_threads(settings["threads"])
    device = torch.device(settings["device"])
    dtype = getattr(torch, settings["precision"])
    model: Any = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype)
    model = model.to(device).eval()
    for name in ("eos_token_id", "bos_token_id", "top_k", "top_p", "temperature"):
        setattr(model.generation_config, name, None)
    model.generation_config.pad_token_id = 0
    vocabulary = model.get_output_embeddings().weight.shape[0]
    work = json.loads(Path(settings["work"]).read_text())

    @torch.no_grad()
    def generate(workload: str, new: int | None = None, **how: Any) -> tuple[torch.Tensor, list[int], float]:
        one = work[workload]
        lengths = [min(length, new or length) for length in one["lengths"]]
        width = max(map(len, one["prompts"]))
        padded = [[0] * (width - len(ids)) + ids for ids in one["prompts"]]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in one["prompts"]]
        if len(set(lengths)) > 1:
            end = vocabulary - 1
            forced = EndAt(torch.tensor(lengths, device=device), end, width)
            how |= {"logits_processor": LogitsProcessorList([forced]), "eos_token_id": end}
        synchronize(device)
        started = time.perf_counter()
        out = model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            num_return_sequences=one["samples"],
            max_new_tokens=max(lengths),
            **how,
        )
        synchronize(device)
        return out[:, width:].cpu(), lengths, time.perf_counter() - started

    def measure(workload: str, new: int | None = None) -> dict[str, Any]:
        out, lengths, seconds = generate(workload, new, do_sample=True, top_k=0, top_p=1.0, temperature=1.0)
        if len(set(lengths)) > 1:
            written = ((out == vocabulary - 1).int().argmax(1) + 1).tolist()
        else:
            written = [out.shape[1]] * len(out)
        peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
        return {"seconds": seconds, "lengths": written, "device_peak_gb": peak}

    def greedy() -> dict[str, Any]:
        out, _, _ = generate("greedy", do_sample=False)
        return {"tokens": out.tolist()}

    return {"measure": measure, "greedy": greedy}


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, where there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    from answering import answer

    answer(load)
