"""vLLM on the workloads of `benchmarks.rollout`. Runs in vLLM's environment and imports nothing of ours.

It need not turn tokens into text. Its prefix cache is on, and emptied before every call: in training the weights have
changed since the last one.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

BLOCK = 128


def load(settings: dict[str, Any]) -> dict[str, Any]:
    """The engine in this process, on the CPU or on the GPU, whichever it was built for."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    work = json.loads(Path(settings["work"]).read_text())
    rows = max(len(w["lengths"]) for w in work.values())
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cache_gib(settings, rows)))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM, SamplingParams, TokensPrompt

    engine = LLM(
        settings["model"],
        dtype=settings["precision"],
        skip_tokenizer_init=True,
        max_model_len=settings["max_tokens"],
        max_num_seqs=rows,
        gpu_memory_utilization=0.5,
        disable_log_stats=True,
        seed=0,
    )

    def measure(workload: str, new: int | None = None) -> dict[str, Any]:
        one = work[workload]
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in one["prompts"]]
        wanted = [min(length, new or length) for length in one["lengths"]]
        per = one["samples"]
        whole = {"n": per, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "ignore_eos": True, "detokenize": False}
        sampling = [SamplingParams(max_tokens=wanted[k * per], **whole) for k in range(len(prompts))]
        engine.reset_prefix_cache()
        started = time.perf_counter()
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        lengths = [len(sample.token_ids) for output in outputs for sample in output.outputs]
        return {"seconds": seconds, "lengths": lengths, "device_peak_gb": device_peak()}

    return {"measure": measure}


def cache_gib(settings: dict[str, Any], rows: int) -> int:
    """Whole GiB that hold every row at its longest, in blocks of 128: no more, since its peak memory is compared."""
    config = json.loads((Path(settings["model"]) / "config.json").read_text())
    queries = config["num_attention_heads"]
    heads = config.get("num_key_value_heads") or queries
    size = config.get("head_dim") or config["hidden_size"] // queries
    bytes_per_token = 2 * config["num_hidden_layers"] * heads * size * (4 if settings["precision"] == "float32" else 2)
    blocks = rows * (settings["max_tokens"] // BLOCK + 1)
    return math.ceil(blocks * BLOCK * bytes_per_token / 2**30)


def device_peak() -> float | None:
    """The GPU's, where there is one."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


if __name__ == "__main__":
    from answering import answer

    answer(load)
