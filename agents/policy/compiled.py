"""`kernels.c`, compiled where it runs.

On a CPU a step of decoding is a thousand small operations, and half of its time is theirs. Torch has none that does a
whole RMS norm or the attention of one new token at once, so a few are written in C. They are compiled on first use by
the machine's own compiler (a second, kept in the user's cache folder) for the processor at hand. Where there is no
compiler and on a GPU torch computes the same. `TEXTENV_KERNELS=0` turns them off.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from agents.policy.hardware import cache_folder, processor

SOURCE = Path(__file__).with_name("kernels.c")
COMPILE = ("-c", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
LINK = ("-shared",)
"""Separate from compiling: a library that is linked with -ffast-math turns off denormal numbers for the whole process.
The OpenMP runtime is not named, so that it is torch's own: one team of threads, not two that wait for each other."""
FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
ADDRESS, COUNT, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
ARGUMENTS = {
    "rms_norm": [ADDRESS] * 3 + [COUNT] * 2 + [REAL, COUNT],
    "add_rms_norm": [ADDRESS] * 5 + [COUNT] * 2 + [REAL, COUNT],
    "rms_norm_backward": [ADDRESS] * 6 + [COUNT] * 2 + [REAL, COUNT, COUNT],
    "silu_mul": [ADDRESS] * 3 + [COUNT],
    "silu_mul_backward": [ADDRESS] * 5 + [COUNT],
    "spread": [ADDRESS, COUNT] + [ADDRESS] * 2 + [COUNT] * 4,
    "collect": [ADDRESS] * 4 + [COUNT] * 4,
    "rotate": [ADDRESS, COUNT] + [ADDRESS] * 3 + [COUNT] * 4,
    "draw": [ADDRESS, COUNT] + [ADDRESS] * 3 + [COUNT] * 2 + [REAL],
    "score": [ADDRESS, COUNT] + [ADDRESS] * 3 + [COUNT] * 2 + [REAL],
    "score_backward": [ADDRESS, COUNT] + [ADDRESS] * 4 + [COUNT] * 2 + [REAL],
    "decode": [ADDRESS] * 10 + [COUNT] * 4,
    "attend": [ADDRESS, COUNT, COUNT] * 3 + [ADDRESS] * 5 + [COUNT] * 6 + [REAL],
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they are turned off or cannot be had."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if os.environ.get("TEXTENV_KERNELS") == "0" or not sys.platform.startswith("linux"):
        return None
    if not compiler or shutil.which(compiler[0]) is None:
        return None
    try:
        loaded = ctypes.CDLL(str(compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"the CPU kernels could not be compiled, torch's are used: {said.strip()[:500]}", stacklevel=2)
        return None
    for name, types in ARGUMENTS.items():
        for number in FORMATS.values():
            getattr(loaded, f"{name}_{number}").argtypes = types
    return loaded


def compiled(compiler: list[str]) -> Path:
    """Where the library for this source, compiler and processor lies. Raises what the compiler raises."""
    key = hashlib.sha256(SOURCE.read_bytes())
    for part in (*compiler, *COMPILE, *WIDE, *LINK, platform.machine(), processor()):
        key.update(part.encode())
    folder = cache_folder()
    path = folder / f"kernels-{key.hexdigest()[:16]}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for options in (
            (*COMPILE, *WIDE, str(SOURCE), "-o", "kernels.o"),
            (*LINK, "kernels.o", "-o", "kernels.so", "-lm"),
        ):
            command = [*compiler, *options]
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True, timeout=120)
        os.replace(Path(scratch) / "kernels.so", path)  # at once: another process may be doing the same
    return path


def call(name: str, like: Tensor, *arguments: float) -> int:
    """The function for the number format of `like`."""
    return getattr(library(), f"{name}_{FORMATS[like.dtype]}")(*arguments)
