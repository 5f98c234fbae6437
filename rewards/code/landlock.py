"""Landlock (Linux 5.13): a process gives up reading and writing files, for good, but for what it names.

Kernel documentation, userspace-api/landlock. Not covered by it: looking whether a file is there and how large it is;
mode, owner and times of files, which the seccomp filter guards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence

from rewards.code.system_calls import system_call

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_RIGHTS_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_NUM_RIGHTS = (0, 13, 14, 15, 15, 16)
"""How many rights on files an ABI knows; from 5 on all 16."""
_TCP = 0b11
_SCOPES = 0b11
"""Abstract Unix sockets, and signals to processes outside."""
_RULE_PATH_BENEATH = 1
_O_PATH = getattr(os, "O_PATH", 0)


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


MIN_ABI = 3
"""Linux 6.2. Before, a file that may only be read may still be emptied, by opening it with O_TRUNC."""


def abi() -> int:
    """The kernel's version of Landlock; raises `OSError` where there is none, or one that lets files be emptied."""
    version = system_call("landlock_create_ruleset", 0, 0, 1)
    if version < MIN_ABI:
        raise OSError(errno.EOPNOTSUPP, f"ABI {version} does not forbid truncating files, {MIN_ABI} does")
    return version


def covers(version: int) -> str:
    """What this version guards, for people."""
    parts = ["files"] + ["TCP"] * (version >= 4) + ["signals and abstract sockets"] * (version >= 6)
    return f"ABI {version}: {', '.join(parts)}"


def ruleset(version: int, *, read: Sequence[str], use: Sequence[str], write: Sequence[str]) -> int:
    """The descriptor of a new ruleset: files beneath `read` may be read, devices in `use` read and written, and
    anything but devices and links made beneath `write`. Paths that do not exist are left out.
    """
    rights = (1 << _NUM_RIGHTS[min(version, 5)]) - 1
    rules = _Ruleset(rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    descriptor = system_call("landlock_create_ruleset", ctypes.byref(rules), size, 0)
    allowed = {_READ_FILE | _READ_DIR: read, _READ_FILE | _WRITE_FILE: use, rights & ~_EXECUTE & ~_IOCTL_DEV: write}
    for some, paths in allowed.items():
        for path in paths:
            _allow(descriptor, some, path)
    return descriptor


def restrict(descriptor: int) -> None:
    """Put a ruleset in force for this process and all that it starts; needs no_new_privs."""
    system_call("landlock_restrict_self", descriptor, 0)


def _allow(ruleset_descriptor: int, rights: int, path: str) -> None:
    try:
        parent = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _RIGHTS_OF_FILES
        rule = _PathBeneath(rights, parent)
        system_call("landlock_add_rule", ruleset_descriptor, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)
