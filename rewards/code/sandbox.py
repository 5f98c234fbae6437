"""Two processes per program: one runs it, the other tests it, and plain data goes between them.

Both are fresh interpreters (`python -I -S`) in sessions of their own, with an empty environment and resource limits;
the program works in a temporary folder that is removed. Processes that it started are killed with its group.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); import rewards.code.{module} as m; del sys.path[0]; m.main{arguments}"
)


def run_tests(job: dict[str, Any], *, timeout_seconds: float, memory_mb: int) -> tuple[list[str], bool]:
    """The outcome of each test that ran ("" for passed), and whether the wall time was up before the last."""
    secret = secrets.token_hex(16)
    limits = (math.ceil(timeout_seconds) + 1, memory_mb)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="textenv-code-", ignore_cleanup_errors=True))
        program_reads, tester_writes = os.pipe()
        tester_reads, program_writes = os.pipe()
        ours = [program_reads, tester_writes, tester_reads, program_writes]
        try:
            program = _start("candidate_process", limits, folder, stdin=program_reads, stdout=program_writes)
            stack.callback(_kill, program)
            channel = (tester_writes, tester_reads)
            tester = _start("tester_process", (*limits, *channel), "/", pass_fds=channel)
            stack.callback(_kill, tester)
        finally:
            for descriptor in ours:  # the two processes hold theirs; ours would hide that the other end has closed
                os.close(descriptor)
        report, timed_out = _converse(tester, json.dumps({**job, "secret": secret}).encode(), timeout_seconds)
    lines = [line[len(secret) :] for line in report.decode(errors="replace").splitlines() if line.startswith(secret)]
    return [json.loads(line) for line in lines], timed_out


def _start(
    module: str,
    arguments: tuple[int, ...],
    folder: str,
    *,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    code = _BOOT.format(root=_ROOT, module=module, arguments=arguments)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
        pass_fds=pass_fds,
        start_new_session=True,
    )


def _converse(tester: subprocess.Popen[bytes], job: bytes, timeout_seconds: float) -> tuple[bytes, bool]:
    try:
        return tester.communicate(job, timeout=timeout_seconds)[0], False
    except subprocess.TimeoutExpired:
        _kill_group(tester)
        return tester.communicate()[0], True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    _kill_group(process)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
