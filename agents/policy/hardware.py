"""Which device and number format a run uses, and what it says about them."""

from __future__ import annotations

import os
import resource
import sys
from functools import cache
from pathlib import Path

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cache_folder() -> Path:
    """Where converted models and compiled kernels are kept: `$TEXTENV_CACHE`, or `~/.cache/textenv`."""
    return Path(os.environ.get("TEXTENV_CACHE") or Path.home() / ".cache" / "textenv")


@cache
def processor() -> str:
    """What tells processors apart whose instructions or makers differ; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return "\n".join(sorted({line for line in lines if line.startswith(("vendor", "model name", "flags", "Features"))}))


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises `ValueError` for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"policy.device must be auto, cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"policy.device={name}, but torch sees no CUDA device here")
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run on instructions of their own (on a CPU: AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where it is fast, else float32."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise ValueError(f"policy.precision must be auto, {' or '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]


def repeat_exactly() -> None:
    """Only operations whose results repeat bit for bit on this machine; torch refuses the others by name."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def peak_memory_gb(device: torch.device) -> float:
    """The most memory used so far: on the GPU there, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
