"""The trainer's side of the sandbox: one fork server per process and setting, and one line to it per grading.

    python -m rewards.code.sandbox

prints which layers hold on this machine. The server is started by exec when first needed, never by a fork of the
trainer; after a fork (of a data loader, say) the child starts its own. One that dies is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.code.layers import Layer
from rewards.code.server import BACKENDS, Gone, SandboxError, Server, Settings

DEFAULT = Settings()
_TRIES = 3


@dataclass(frozen=True)
class Report:
    """What became of one grading."""

    lines: tuple[Mapping[str, Any], ...]
    """What the tester said, in order."""
    timed_out: bool
    status: int | None
    """Of the program where it ended by itself: its exit status, negative for a signal."""


def layers(settings: Settings = DEFAULT) -> Mapping[str, Layer]:
    """What the server found; starts it where there is none. Raises `SandboxError` where it cannot be started."""
    return _server(settings).layers


def grade(
    job: Mapping[str, Any],
    *,
    script: bool,
    timeout_seconds: float,
    memory_mb: int,
    settings: Settings = DEFAULT,
) -> Report:
    """Run one program with its tester. Raises `SandboxError` where that was not possible."""
    request = {"script": script, "timeout_seconds": timeout_seconds, "memory_mb": memory_mb}
    for _ in range(_TRIES):
        server = _server(settings)
        try:
            return _report(server.ask(request, json.dumps(job).encode()))
        except Gone:
            _replace(settings, server)
    raise SandboxError(f"the fork server died {_TRIES} times under a program")


def close() -> None:
    """End this process's servers; a later call starts them again."""
    with _lock:
        servers = list(_servers.values())
        _servers.clear()
    for server in servers:
        server.stop()


def _report(lines: list[dict[str, Any]]) -> Report:
    last = lines[-1]
    if "failure" in last:
        raise SandboxError(last["failure"])
    if not any("started" in line for line in lines):
        raise SandboxError(f"the sandbox could not be set up ({last['ended'] or 'it ended'})")
    said = tuple(line for line in lines if not {"started", "ended"} & line.keys())
    return Report(said, last["ended"] == "timed out", last["status"])


_servers: dict[Settings, Server] = {}
_lock = threading.Lock()


def _server(settings: Settings) -> Server:
    with _lock:
        server = _servers.get(settings)
        if server is None or server.owner != os.getpid():
            server = _servers[settings] = Server(settings)
        return server


def _replace(settings: Settings, dead: Server) -> None:
    with _lock:
        if _servers.get(settings) is dead:
            del _servers[settings]
    dead.stop()


def _forget() -> None:
    """In a fork of the trainer: the servers are the parent's, and the lock may be held by a thread that is not here."""
    global _lock
    _lock = threading.Lock()
    servers = list(_servers.values())
    _servers.clear()
    for server in servers:
        server.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def main(arguments: list[str] | None = None) -> None:
    """Print the layers, one a line, and as JSON with `--json`."""
    parser = argparse.ArgumentParser(prog="python -m rewards.code.sandbox", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="fork_server")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = layers(Settings(options.backend))
    if options.json:
        print(json.dumps({name: {"active": layer.active, "detail": layer.detail} for name, layer in found.items()}))
        return
    width = shutil.get_terminal_size().columns
    for layer in found.values():
        print(f"{layer.name:<18} {'active  ' if layer.active else 'INACTIVE'}  {layer.detail}"[: max(width, 100)])


if __name__ == "__main__":
    main()
