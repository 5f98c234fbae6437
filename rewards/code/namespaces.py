"""Namespaces that the fork server enters once, and all that it forks inherit: network, ipc, mount.

Making a network namespace costs some 2 ms and removing it more, so programs share one; it holds nothing. Root enters
them as root; an ordinary user first enters a user namespace, where the system allows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Set

from rewards.code.system_calls import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, mount, unshare

FILES_MB = 64
"""The size of the file system in memory that holds a program's private folder."""
_MAX_FILES = 4096
_NOSUID, _NODEV, _NOEXEC, _PRIVATE, _RECURSIVE = 2, 4, 8, 1 << 18, 1 << 14
LINKS = {"network_namespace": "net", "ipc_namespace": "ipc", "mount_namespace": "mnt", "pid_namespace": "pid"}
"""Layer -> its link in /proc/self/ns."""


def identity(layer: str) -> int:
    """The number of the namespace that this process is in."""
    return os.stat(f"/proc/self/ns/{LINKS[layer]}").st_ino


def enter_user_namespace() -> None:
    """A user namespace with this user and group only, under their own numbers; raises `OSError`."""
    user, group = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def enter(wanted: Set[str], folder: str) -> dict[str, str]:
    """Enter the namespaces of these layers; by layer, why it could not be done, "" where it was."""
    steps: dict[str, Callable[[], None]] = {
        "network_namespace": lambda: unshare(CLONE_NEWNET),
        "ipc_namespace": lambda: unshare(CLONE_NEWIPC),
        "mount_namespace": lambda: _own_file_system(folder),
    }
    return {name: _why_not(step) for name, step in steps.items() if name in wanted}


def _own_file_system(folder: str) -> None:
    unshare(CLONE_NEWNS)
    mount("none", "/", "none", _PRIVATE | _RECURSIVE)
    new_file_system(folder)


def new_file_system(folder: str) -> None:
    """An empty one, in memory, for files that cannot be executed; raises `OSError`."""
    options = f"size={FILES_MB}m,nr_inodes={_MAX_FILES},mode=0711"
    mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)


def _why_not(step: Callable[[], None]) -> str:
    try:
        step()
    except OSError as error:
        return str(error)
    return ""
