"""Linux system calls that Python has no function for, through ctypes.

Numbers are those of the kernel's tables, for x86-64 (tested) and aarch64 (written, never run).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from typing import Any

SIGCHLD = 17
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 38, 39
_CAPABILITY_VERSION_3 = 0x20080522

_MNT_DETACH = 2

MACHINES = ("x86_64", "aarch64")
_NUMBERS = {
    "clone": (56, 220),
    "capget": (125, 90),
    "capset": (126, 91),
    "close_range": (436, 436),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
_CAPABILITY_HEADER = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC_WITH_GIL = ctypes.PyDLL(None, use_errno=True)


def machine_index() -> int:
    """Which column of a table of numbers is this machine's; raises `OSError` where there is none."""
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(f"system call numbers are known for {' and '.join(MACHINES)}, not for {machine}")
    return MACHINES.index(machine)


def system_call(name: str, *arguments: Any) -> int:
    """What the kernel returns; raises `OSError` with its errno. Arguments are integers and pointers."""
    return _checked(_LIBC.syscall(ctypes.c_long(_NUMBERS[name][machine_index()]), *map(_word, arguments)), name)


def prctl(option: int, *arguments: Any) -> int:
    """The system call of this name; raises `OSError`."""
    padded = [*map(_word, arguments), *[ctypes.c_ulong(0)] * (4 - len(arguments))]
    return _checked(_LIBC.prctl(ctypes.c_int(option), *padded), f"prctl {option}")


def unshare(flags: int) -> None:
    """The system call of this name, which `os` has from Python 3.12 on; raises `OSError`."""
    _checked(_LIBC.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """The system call of this name; raises `OSError`."""
    texts = [text.encode() for text in (source, target, kind)]
    _checked(_LIBC.mount(*texts, ctypes.c_ulong(flags), options.encode()), f"mount {kind or source}")


def unmount(target: str) -> None:
    """Take a file system away, whoever still uses it; raises `OSError`."""
    _checked(_LIBC.umount2(target.encode(), ctypes.c_int(_MNT_DETACH)), "umount2")


def fork_into(namespaces: int) -> int:
    """`os.fork()` into new namespaces, which leaves the caller in its own, as unshare(2) would not.

    The interpreter is told of the fork by the functions that `os.fork` calls. For processes with one thread only.
    """
    if not namespaces:
        return os.fork()
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    number = ctypes.c_long(_NUMBERS["clone"][machine_index()])
    pid = _LIBC_WITH_GIL.syscall(number, ctypes.c_ulong(namespaces | SIGCHLD), *[ctypes.c_ulong(0)] * 4)
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return int(pid)


def drop_capabilities() -> None:
    """Give up every capability of this process, in all three sets."""
    system_call("capset", ctypes.byref(_CAPABILITY_HEADER), ctypes.byref(_NO_CAPABILITIES))


def close_from(lowest: int, highest: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from `lowest` to `highest`, both included."""
    try:
        system_call("close_range", lowest, highest, 0)
    except OSError:  # a kernel before 5.9
        for descriptor in (int(name) for name in os.listdir("/proc/self/fd")):
            if lowest <= descriptor <= highest:
                with contextlib.suppress(OSError):  # the one that listed the folder
                    os.close(descriptor)


def _word(argument: Any) -> Any:
    return ctypes.c_ulong(argument) if isinstance(argument, int) else argument


def _checked(result: int, name: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return int(result)
