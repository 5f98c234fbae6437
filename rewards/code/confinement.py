"""What a forked process does to itself before it meets a program, in the order in which each step still may happen."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rewards.code import landlock, seccomp
from rewards.code.limits import limit_this_process
from rewards.code.system_calls import (
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    close_from,
    drop_capabilities,
    prctl,
)

_ABOVE = 64
"""Descriptors are parked from here on while they are put in their places."""
RULES = 3
"""The place of a ruleset of Landlock."""
_LIBRARY = 32
"""The folder of the standard library is held open from here on."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
SYSTEM_FILES = ("/usr/lib", "/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")


@dataclass(frozen=True)
class Confinement:
    """What the server found out once and every process applies."""

    layers: frozenset[str]
    """The names of the active ones."""
    landlock_abi: int = 0
    filter: bytes = b""
    read: tuple[str, ...] = ()
    """Files and folders that may be read."""
    library: int | None = None
    """The standard library's folder, open, where another user could not get to it by its path."""
    own_users: bool = False
    """The kernel counts this user's processes apart from the trainer's."""


def confine(
    how: Confinement,
    *,
    user: int | None,
    folder: str,
    rules: int | None,
    cpu_seconds: int,
    memory_bytes: int,
    server: int = 0,
) -> None:
    """Give up rights for good and work in `folder`. `rules`: the open ruleset of Landlock; `server`: who must still be
    the parent.

    Raises `OSError` where a layer that worked in its probe does not; the process must end then.
    """
    threads = how.own_users or user is not None
    if "rlimits" in how.layers:
        limit_this_process(cpu_seconds=cpu_seconds, memory_bytes=memory_bytes, threads=threads)
    os.chdir(folder)
    if user is not None:
        become(user)
    if "parent_death" in how.layers:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # behind the change of user, which clears it
        if server and os.getppid() != server:
            os._exit(1)
    prctl(PR_SET_DUMPABLE, 0)  # processes of the same user can neither trace it nor read its memory
    if "no_capabilities" in how.layers:
        drop_capabilities()
    if "no_new_privs" in how.layers:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    if rules is not None:
        landlock.restrict(rules)
        os.close(rules)
    if "seccomp" in how.layers:
        seccomp.install(how.filter)


def rules_for(how: Confinement, folders: Sequence[str]) -> int | None:
    """An open ruleset under which only `folders` may be written; None without Landlock."""
    if "landlock" not in how.layers:
        return None
    return landlock.ruleset(how.landlock_abi, read=how.read, use=DEVICES, write=folders)


def readable(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that exist, without those that lie beneath others.

    >>> readable(["/usr/bin", "/usr", "/no such", "/usr/"])
    ('/usr',)
    """
    real = sorted({os.path.realpath(path) for path in paths if os.path.exists(path)})
    return tuple(path for path in real if not any(path.startswith(f"{other}/") for other in real))


def become(user: int) -> None:
    """Be another user, of a group of the same number, and no other group."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def keep_only(places: Mapping[int, int], *, also: int | None = None) -> None:
    """Put descriptors (the values) at their places (the keys, below 64) and close all others but `also`.

    Places below the last that nobody claims lead to /dev/null; 0, 1 and 2 are always there.
    """
    null = os.open(os.devnull, os.O_RDWR)
    parked = {place: fcntl.fcntl(descriptor, fcntl.F_DUPFD, _ABOVE) for place, descriptor in places.items()}
    parked[-1] = fcntl.fcntl(null, fcntl.F_DUPFD, _ABOVE)
    end = max([2, *places]) + 1
    for place in range(end):
        os.dup2(parked.get(place, parked[-1]), place, inheritable=place <= 2)
    if also is not None:
        close_from(end, also - 1)
        end = also + 1
    close_from(end)


def hold_open(folder: str) -> int:
    """A descriptor of a folder, out of the way of the places."""
    descriptor = os.open(folder, getattr(os, "O_PATH", 0) | os.O_DIRECTORY)
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LIBRARY)
    finally:
        os.close(descriptor)


def import_through(descriptor: int) -> None:
    """Import the standard library by way of an open folder: its own path leads through folders of another user."""
    library = os.path.dirname(os.__file__)
    through = f"/proc/self/fd/{descriptor}"
    sys.path[:] = [path.replace(library, through, 1) for path in sys.path if path.startswith(library)]
    for module in list(sys.modules.values()):
        paths = getattr(module, "__path__", None)
        if isinstance(paths, list):
            paths[:] = [path.replace(library, through, 1) for path in paths]
