"""The filter's verdicts, by a small interpreter of its instructions; for both machines, whichever this is."""

import errno
import struct

import pytest

from rewards.code import seccomp
from rewards.code.system_calls import MACHINES

X86, ARM = range(len(MACHINES))
ARCHITECTURE = {X86: 0xC000003E, ARM: 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def verdict(machine, number, *arguments, architecture=None):
    """What the kernel would return for a system call."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, architecture or ARCHITECTURE[machine], 0, *padded)
    program, accumulator, place = seccomp.program_for(machine), 0, 0
    while True:
        operation, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * place)
        place += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
            continue
        holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: accumulator & operand != 0}
        place += if_true if holds[operation] else if_false


ALLOWED = {
    X86: {"read": 0, "write": 1, "mmap": 9, "futex": 202, "openat": 257, "getrandom": 318, "setitimer": 38},
    ARM: {"read": 63, "write": 64, "mmap": 222, "futex": 98, "openat": 56, "getrandom": 278, "setitimer": 103},
}
DENIED = {
    X86: {"execve": 59, "fork": 57, "socket": 41, "kill": 62, "ptrace": 101, "bpf": 321, "io_uring_setup": 425},
    ARM: {"execve": 221, "socket": 198, "kill": 129, "ptrace": 117, "bpf": 280, "io_uring_setup": 425},
}


@pytest.mark.parametrize("machine", [X86, ARM], ids=MACHINES)
def test_what_an_interpreter_lives_on_is_allowed(machine):
    assert {name: verdict(machine, number, 3, 4, 5) for name, number in ALLOWED[machine].items()} == dict.fromkeys(
        ALLOWED[machine], ALLOW
    )


@pytest.mark.parametrize("machine", [X86, ARM], ids=MACHINES)
def test_processes_sockets_signals_and_tracing_are_denied(machine):
    assert {name: verdict(machine, number) for name, number in DENIED[machine].items()} == dict.fromkeys(
        DENIED[machine], DENY
    )


@pytest.mark.parametrize(("machine", "clone"), [(X86, 56), (ARM, 220)])
def test_clone_makes_threads_and_no_processes(machine, clone):
    of_a_thread = 0x3D0F00  # what the C library passes for a thread, CLONE_THREAD among it
    assert verdict(machine, clone, of_a_thread) == ALLOW
    assert verdict(machine, clone, 17) == DENY
    assert verdict(machine, 435) == UNKNOWN


@pytest.mark.parametrize(("machine", "prlimit"), [(X86, 302), (ARM, 261)])
def test_limits_are_read_and_not_set(machine, prlimit):
    assert verdict(machine, prlimit, 0, 7, 0, 0x7F0000000000) == ALLOW
    assert verdict(machine, prlimit, 0, 7, 0x1000, 0) == DENY
    assert verdict(machine, prlimit, 0, 7, 1 << 32, 0) == DENY


@pytest.mark.parametrize(("machine", "ioctl"), [(X86, 16), (ARM, 29)])
def test_nobody_types_into_a_terminal(machine, ioctl):
    assert verdict(machine, ioctl, 0, 0x5412) == DENY
    assert verdict(machine, ioctl, 0, 0x541C) == DENY
    assert verdict(machine, ioctl, 0, 0x5401) == ALLOW


@pytest.mark.parametrize(("machine", "fcntl"), [(X86, 72), (ARM, 25)])
def test_no_file_sends_signals(machine, fcntl):
    assert {verdict(machine, fcntl, 4, command) for command in (8, 10, 15)} == {DENY}
    assert {verdict(machine, fcntl, 4, command) for command in (0, 1, 2, 3, 4, 1030)} == {ALLOW}


@pytest.mark.parametrize("machine", [X86, ARM])
def test_other_tables_of_calls_are_closed(machine):
    assert verdict(machine, 1, architecture=0x40000003) == KILL  # 32-bit calls on a 64-bit machine
    assert verdict(machine, 0x40000000 + 41) == DENY
    assert verdict(machine, 453) == UNKNOWN


@pytest.mark.parametrize("machine", [X86, ARM], ids=MACHINES)
def test_the_verdict_on_every_number_is_that_of_the_table(machine):
    """The search among ranges, against a plain look-up."""
    denied = {numbers[machine] for numbers in seccomp._DENIED.values()}
    by_arguments = (seccomp._CLONE, seccomp._PRLIMIT, seccomp._IOCTL, seccomp._FCNTL)
    special = {seccomp._CLONE3, *(numbers[machine] for numbers in by_arguments)}
    for number in set(range(453)) - special:
        assert verdict(machine, number) == (DENY if number in denied else ALLOW), number


def test_a_jump_never_leaves_the_filter():
    for machine in (X86, ARM):
        program = seccomp.program_for(machine)
        count = len(program) // 8
        assert count <= 4096
        for place in range(count):
            operation, if_true, if_false, _ = struct.unpack_from("=HBBI", program, 8 * place)
            if operation in (0x15, 0x35, 0x45):
                assert place + 1 + max(if_true, if_false) < count
        assert struct.unpack_from("=H", program, len(program) - 8) == (0x06,)
