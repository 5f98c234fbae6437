"""The trainer's handle of a fork server: starts it by exec, sends it gradings, ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.code.bubblewrap import wrapped
from rewards.code.folders import remove_tree
from rewards.code.layers import Layer
from rewards.code.namespaces import LINKS, identity

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("fork_server", "bubblewrap")
STARTUP_SECONDS = 60.0
GRACE_SECONDS = 20.0
"""The server keeps the deadline of a grading; one that is silent for so long beyond it is given up."""
_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); from rewards.code.fork_server import main; del sys.path[0]; "
    "main({control}, {owner}, {settings!r})"
)


class SandboxError(RuntimeError):
    """A program could not be graded, through no fault of its own."""


class Gone(Exception):
    """The server has died."""


@dataclass(frozen=True)
class Settings:
    """Gradings with equal ones share a server."""

    backend: str = "fork_server"
    without: frozenset[str] = frozenset()
    """Layers that are left out."""


class Server:
    """A running fork server."""

    def __init__(self, settings: Settings) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.owner = os.getpid()
        owner = _own_pidfd()
        try:
            self._process = _start(settings, theirs, owner)
        except OSError:
            self._line.close()
            raise
        finally:
            theirs.close()
            if owner >= 0:
                os.close(owner)
        self.pid = self._process.pid
        self._folder: list[str] = []
        self.stop = weakref.finalize(self, _end, self._process, self._line, self.owner, self._folder)
        told = self._greeting()
        if settings.backend == "fork_server":
            self._folder.append(told["folder"])  # with bubblewrap it is in a file system that ends with the server
        self.layers = {name: Layer(name, *found) for name, found in told["layers"].items()}

    def _greeting(self) -> dict[str, Any]:
        self._line.settimeout(STARTUP_SECONDS)
        reason = "it ended"
        try:
            told = self._line.recv(1 << 16)
        except OSError as error:
            told, reason = b"", str(error)
        if not told:
            self.stop()
            raise SandboxError(f"the fork server could not be started ({reason}; stderr says more)")
        self._line.settimeout(GRACE_SECONDS)
        return dict(json.loads(told))

    def ask(self, request: Mapping[str, Any], job: bytes) -> list[dict[str, Any]]:
        """All lines said on one grading; raises `Gone` where the server ended before the last."""
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    socket.send_fds(self._line, [json.dumps(request).encode()], [theirs.fileno()])
            except OSError as error:
                raise Gone from error
            deadline = time.monotonic() + request["timeout_seconds"] + GRACE_SECONDS
            ours.settimeout(request["timeout_seconds"] + GRACE_SECONDS)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # ended before it had read all
                ours.sendall(job)
                ours.shutdown(socket.SHUT_WR)
            lines = _lines(ours, deadline)
        if not lines or not {"ended", "failure"} & lines[-1].keys():
            raise Gone
        return lines


def _lines(line: socket.socket, deadline: float) -> list[dict[str, Any]]:
    """Lines of JSON up to the end; one cut short by a kill is left out. Raises `Gone` at the deadline."""
    received = bytearray()
    try:
        while part := line.recv(1 << 16):
            received += part
            line.settimeout(max(0.01, deadline - time.monotonic()))
    except TimeoutError as error:
        raise Gone from error
    except ConnectionResetError:
        pass  # what it did not read of the job was thrown away with it
    found = []
    for text in bytes(received).split(b"\n"):
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return found


def _start(settings: Settings, control: socket.socket, owner: int) -> subprocess.Popen[bytes]:
    chosen = {
        "trainer": os.getpid(),  # for whoever wonders in a list of processes whose this is
        "backend": settings.backend,
        "without": sorted(settings.without),
        "namespaces": {layer: identity(layer) for layer in LINKS},
    }
    boot = _BOOT.format(root=str(ROOT), control=control.fileno(), owner=owner, settings=json.dumps(chosen))
    command = [sys.executable, "-I", "-S", "-c", boot]
    folder = tempfile.gettempdir()
    if settings.backend == "bubblewrap":
        command, folder = wrapped(command, root=ROOT), "/tmp"
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
        pass_fds=[descriptor for descriptor in (control.fileno(), owner) if descriptor >= 0],
        start_new_session=True,
    )


def _own_pidfd() -> int:
    """Readable once this process has ended; -1 where the kernel has none: the closed line then says it."""
    try:
        return os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return -1


def _end(process: subprocess.Popen[bytes], line: socket.socket, owner: int, folders: list[str]) -> None:
    """End a server; only its owner may, a fork of the owner has just a copy of the handle."""
    with contextlib.suppress(OSError):
        line.close()
    if owner != os.getpid():
        process.returncode = 0  # not this process's child: nothing to wait for
        return
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for folder in folders:
        remove_tree(folder)  # a killed server could not
