"""What each layer does on this machine: every one is put in force in a process of its own and then tried.

A layer counts as active when what it forbids has failed in the probe, not when a system call returned 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial

from rewards.code.confinement import Confinement, become, confine, rules_for
from rewards.code.limits import memory_in_use
from rewards.code.namespaces import identity
from rewards.code.system_calls import (
    CLONE_NEWPID,
    PR_GET_NO_NEW_PRIVS,
    PR_GET_PDEATHSIG,
    fork_into,
    prctl,
    system_call,
)

USERS = (1_900_000_000, 64_000)
"""First of the numbers of users that own nothing; the second where a container has only 65,536."""
ROOM = 200 << 20


class Inactive(Exception):
    """The layer did not hold; says why."""


def in_child(action: Callable[[], object], namespaces: int = 0) -> str:
    """Why `action` failed in a fork of its own, "" where it did not."""
    reads, writes = os.pipe()
    try:
        pid = fork_into(namespaces)
    except OSError as error:
        os.close(reads)
        os.close(writes)
        return str(error)
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.write(writes, (_attempt(action) or "\n").encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return told.strip() if told else f"the probe ended with status {os.waitstatus_to_exitcode(status)}"


def _attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except Exception as error:  # noqa: BLE001 - whatever it is, the layer is not to be relied on
        return f"{type(error).__name__}: {error}"
    return ""


def refuse(allowed: bool, what: str) -> None:
    """Raise `Inactive` where something was allowed."""
    if allowed:
        raise Inactive(what)


def succeeds(action: Callable[[], object]) -> bool:
    """Whether it raised no error of the system (of which `resource` makes a `ValueError`)."""
    try:
        action()
    except (OSError, ValueError):
        return False
    return True


def alone(layer: str, how: Confinement | None = None, folder: str = "/") -> None:
    """Put one layer in force in this process, with no_new_privs, which others rest on."""
    how = how or Confinement(frozenset({layer, "no_new_privs"}))
    memory = memory_in_use() + ROOM
    confine(how, user=None, folder=folder, rules=rules_for(how, [folder]), cpu_seconds=1, memory_bytes=memory)


def rlimits() -> None:
    """More memory than allowed cannot be had."""
    alone("rlimits")
    try:
        block = bytearray(2 * ROOM)
    except MemoryError:
        return
    raise Inactive(f"{len(block)} bytes of memory were given")


def no_new_privs() -> None:
    """The kernel says so."""
    alone("no_new_privs")
    refuse(prctl(PR_GET_NO_NEW_PRIVS) != 1, "the kernel does not know it")


def parent_death() -> None:
    """The kernel holds the signal."""
    alone("parent_death")
    held = ctypes.c_int()
    prctl(PR_GET_PDEATHSIG, ctypes.byref(held))
    refuse(held.value != signal.SIGKILL, "the kernel does not hold the signal")


def no_capabilities() -> None:
    """None is effective or permitted."""
    alone("no_capabilities")
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    system_call("capget", ctypes.byref(header), ctypes.byref(sets))
    refuse(any(sets), "some are left")


def other_user(user: int) -> None:
    """It is another user, who cannot become root again."""
    become(user)
    refuse(os.getresuid() != (user,) * 3, "the user did not change")
    refuse(succeeds(lambda: os.setuid(0)), "root is to be had again")


def landlock_files(abi: int, read: tuple[str, ...], folder: str) -> None:
    """Nothing but the folder can be written, nothing but the interpreter read."""
    how = Confinement(frozenset({"landlock", "no_new_privs"}), landlock_abi=abi, read=read)
    inside = os.path.join(folder, "inside")
    os.mkdir(inside)
    try:
        _try_landlock(how, inside, outside=os.path.join(folder, "outside"))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(inside, "file"))


def _try_landlock(how: Confinement, inside: str, outside: str) -> None:
    alone("landlock", how, folder=inside)
    for path in ("/", "/proc/self/status", "/etc/passwd"):
        refuse(succeeds(partial(os.open, path, os.O_RDONLY)), f"{path} can be read")
    refuse(succeeds(lambda: open(outside, "w").close()), "files outside the folder can be written")
    with open(os.path.join(inside, "file"), "w") as file:
        file.write("x")
    os.listdir(os.path.dirname(os.__file__))


def seccomp_calls(program: bytes) -> None:
    """No process, no socket, no signal; a thread, though."""
    alone("seccomp", Confinement(frozenset({"seccomp", "no_new_privs"}), filter=program))
    refuse(succeeds(lambda: os.fork() or os._exit(0)), "processes can be started")
    refuse(succeeds(lambda: socket.socket().close()), "sockets can be opened")
    refuse(succeeds(lambda: os.kill(os.getpid(), 0)), "signals can be sent")
    refuse(succeeds(lambda: os.chmod("/dev/null", 0o666)), "modes of files can be changed")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    refuse(succeeds(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)), "limits can be set")
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def namespace(layer: str, outside: int) -> None:
    """It is another one than the trainer's, whose number is `outside`."""
    refuse(identity(layer) == outside, "it is the trainer's")


def pid_namespace(outside: int) -> str:
    """Why programs cannot be started in one of their own, "" where they can."""
    return in_child(lambda: namespace("pid_namespace", outside), CLONE_NEWPID)


def first_user() -> tuple[int | None, str]:
    """The first of the users that programs can be given, and else why there is none."""
    if os.geteuid() != 0:
        return None, "only root can start processes of another user"
    told = ""
    for user in USERS:
        told = in_child(partial(other_user, user))
        if not told:
            return user, ""
    return None, told


def can_read_library(user: int) -> bool:
    """Whether this user gets to the standard library by its path."""

    def look() -> None:
        become(user)
        with open(os.__file__, "rb"):
            pass

    return not in_child(look)
