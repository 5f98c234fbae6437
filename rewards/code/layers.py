"""The layers of the sandbox by name, and what is known of each after a probe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LAYERS = {
    "rlimits": "CPU time, memory, file size, open files, no core dumps",
    "no_new_privs": "no set-user-id program gives rights",
    "parent_death": "it is killed when the fork server ends",
    "no_capabilities": "nothing that only an administrator may do",
    "other_user": "a user of its own that owns nothing (only root can start one)",
    "landlock": "reads the interpreter, writes its private folder, no TCP, no signals to others",
    "seccomp": "no processes, sockets, signals, tracing, mounts, changes of mode or owner, ...",
    "network_namespace": "no network device",
    "ipc_namespace": "no shared memory or queues of others",
    "mount_namespace": "private folders lie in file systems of their own, in memory and of limited size",
    "pid_namespace": "sees no process of others; what it started ends with it",
    "bubblewrap": "a file system that holds the interpreter and nothing else",
}
"""Name -> what it adds. Closed descriptors, an own session, a private folder of mode 0700, an empty environment, the
deadline and the cap on output are always there."""
NAMESPACES = ("network_namespace", "ipc_namespace", "mount_namespace", "pid_namespace")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer on this machine."""

    name: str
    active: bool
    detail: str
    """How far it goes, or why it is not active."""


def check_names(setting: str, names: Iterable[str]) -> frozenset[str]:
    """The names as a set; raises `ValueError` for one that is no layer."""
    if isinstance(names, str):
        raise ValueError(f"{setting} must be a list of layers, got the text {names!r}")
    chosen = list(names)
    for name in chosen:
        if name not in LAYERS:
            raise ValueError(f"{setting} must name layers of {sorted(LAYERS)}, got {name!r}")
    return frozenset(chosen)
