"""The fork server inside bubblewrap: namespaces and a file system that holds the interpreter and nothing else.

https://github.com/containers/bubblewrap, 0.7 or newer. It starts once per server, so it costs nothing per program; the
other layers are added to it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from rewards.code.namespaces import FILES_MB

_SHARED = 4
"""Programs share a file system here, of so many times the usual size."""
SHOWN = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")


def find() -> str:
    """The program's path; raises `ValueError` where there is none."""
    beside = shutil.which("bwrap", path=os.path.dirname(sys.executable))  # from a wheel, in an environment not active
    found = shutil.which("bwrap") or beside
    if found is None:
        raise ValueError("backend bubblewrap needs the program bwrap on the PATH, and it is not there")
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
