"""A seccomp filter: system calls that a program has no business with fail with EPERM.

Berkeley packet filter by prctl(2), no library. A deny list, since what an interpreter needs changes with its version;
calls newer than the tables do not exist (ENOSYS). Numbers: asm/unistd_64.h for x86-64 (tested), asm-generic/unistd.h
for aarch64 (written, never run on one).
"""

from __future__ import annotations

import ctypes
import errno
import struct

from rewards.code.system_calls import PR_SET_SECCOMP, machine_index, prctl

_AUDIT_ARCHITECTURES = (0xC000003E, 0xC00000B7)
_NEWEST = 452
"""fchmodat2: the newest call that the tables below know."""
_X32 = 0x40000000
_CLONE_THREAD = 0x00010000
_CLONE, _PRLIMIT, _IOCTL, _FCNTL, _CLONE3 = (56, 220), (302, 261), (16, 29), (72, 25), 435
_OWNER_OF_SIGNALS = (8, 10, 15)
"""fcntl commands that send a signal to whom one likes: F_SETOWN, F_SETSIG, F_SETOWN_EX."""
_TERMINAL_INPUT = (0x5412, 0x541C)
"""ioctl requests that type into a terminal: TIOCSTI, TIOCLINUX."""

# Each: x86-64's number, aarch64's; None where the machine has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # processes: start, replace, signal, trace
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "kcmp": (312, 272), "prctl": (157, 167), "setpgid": (109, 154),
    "setsid": (112, 157), "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "ioprio_set": (251, 30), "setrlimit": (160, 164),
    "personality": (135, 92), "modify_ldt": (154, None), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # sockets and what else leads to other processes
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242),
    "bind": (49, 200), "listen": (50, 201), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "sendmmsg": (307, 269), "recvmmsg": (299, 243), "setsockopt": (54, 208),
    "getsockopt": (55, 209), "shutdown": (48, 210), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "shmdt": (67, 197), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183), "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # users and rights
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setgroups": (116, 159), "setresuid": (117, 147), "setresgid": (119, 149), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "capset": (126, 91), "unshare": (272, 97), "setns": (308, 268), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
    # what Landlock leaves open on files: mode, owner, times, attributes, special files, handles, watches; and what it
    # leaves open before its ABI 3
    "truncate": (76, 45),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mknod": (133, None), "mknodat": (259, 33), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # the system
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "sethostname": (170, 161),
    "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "acct": (163, 89), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, None),
    "ioperm": (173, None), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "sync": (162, 81), "syncfs": (306, 267),
    # large attack surface, no use here
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_setup": (206, 0),
    "io_submit": (209, 2), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "memfd_create": (319, 279), "memfd_secret": (447, 447), "vmsplice": (278, 75),
}  # fmt: skip

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_DENY, _UNKNOWN = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Steps = tuple[bytes, ...]
"""Instructions of eight bytes: operation, jumps if true and if false (how many to leave out), operand."""


def filter_program() -> bytes:
    """The filter for this machine; raises `OSError` where there is no table for it."""
    return program_for(machine_index())


def program_for(machine: int) -> bytes:
    """A binary search among ranges of numbers that fare alike: the kernel tries every number when it installs it."""
    start = (_step(_LOAD, _ARCHITECTURE), *_unless_equal(_AUDIT_ARCHITECTURES[machine], _KILL_PROCESS))
    return b"".join([*start, _step(_LOAD, _NUMBER), *_search(_ranges(machine))])


def _ranges(machine: int) -> list[tuple[int, Steps]]:
    """First number of each range, and what is done with its calls."""
    allow, deny = (_step(_RETURN, _ALLOW),), (_step(_RETURN, _DENY),)
    threads = (*_if(_ANY_BIT, _CLONE_THREAD, _ALLOW), *deny)
    reading = (*_unless_equal(0, _DENY), _step(_LOAD, _ARGUMENTS + 8 * 2 + 4), *_unless_equal(0, _DENY), *allow)
    typing, signalling = (
        tuple(step for request in requests for step in _if(_EQUAL, request, _DENY))
        for requests in (_TERMINAL_INPUT, _OWNER_OF_SIGNALS)
    )
    special = {
        _CLONE[machine]: (_load(0), *threads),  # threads, not processes
        _PRLIMIT[machine]: (_load(2), *reading),  # limits are read, not set: the new one is null, in both halves
        _IOCTL[machine]: (_load(1), *typing, *allow),
        _FCNTL[machine]: (_load(1), *signalling, *allow),
        _CLONE3: (_step(_RETURN, _UNKNOWN),),  # its flags lie in memory; the C library falls back to clone
    }
    denied = {numbers[machine] for numbers in _DENIED.values()}
    ranges: list[tuple[int, Steps]] = []
    for number in range(_NEWEST + 1):
        steps = special.get(number, deny if number in denied else allow)
        if not ranges or ranges[-1][1] != steps:
            ranges.append((number, steps))
    return [*ranges, (_NEWEST + 1, (_step(_RETURN, _UNKNOWN),)), (_X32, deny)]


def _search(ranges: list[tuple[int, Steps]]) -> Steps:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    return (_step(_AT_LEAST, ranges[middle][0], len(below), 0), *below, *above)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


def install(program: bytes) -> None:
    """Put a filter in force for this process and all that it starts; needs no_new_privs."""
    prctl(PR_SET_SECCOMP, 2, ctypes.byref(_Program(len(program) // 8, program)))


def _step(operation: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, operand)


def _load(argument: int) -> bytes:
    """The lower half of an argument."""
    return _step(_LOAD, _ARGUMENTS + 8 * argument)


def _if(test: int, operand: int, result: int) -> Steps:
    return _step(test, operand, 0, 1), _step(_RETURN, result)


def _unless_equal(operand: int, result: int) -> Steps:
    return _step(_EQUAL, operand, 1, 0), _step(_RETURN, result)
