"""A virtual environment for each peer, made once, and a worker run in it.

A peer is a file of requirements, `benchmarks/peers/<name>.txt`, and scripts that import nothing of ours, since their
environment does not have us. A worker is given its settings as one JSON argument and prints one JSON object as its last
line. What cannot be installed or run here is absent from a table with the reason, never a number.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".venv-peers"
OWN = "ours"

Say = Callable[[str], None]


class Absent(RuntimeError):
    """A peer that cannot be measured here; the message says why."""


def python_of(peer: str, say: Say = print) -> Path:
    """The interpreter that runs `peer`: this one for `ours`, else that of `.venv-peers/<peer>`, made on first use.

    Raises `Absent` with the installer's last words when it cannot be made; what was half made is removed.
    """
    if peer == OWN:
        return Path(sys.executable)
    folder, wanted = FOLDER / peer, HERE / f"{peer}.txt"
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    if mark.is_file() and mark.read_text() == wanted.read_text():
        return python
    say(f"Making {folder.relative_to(ROOT)} (once, minutes) ...")
    shutil.rmtree(folder, ignore_errors=True)
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "torch==2.13.0"],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise Absent(f"{peer} cannot be installed: {last_line(done.stderr or done.stdout)}")
    mark.write_text(wanted.read_text())
    return python


@dataclass(frozen=True, slots=True)
class Worker:
    """A script and the peer whose environment it runs in."""

    peer: str
    script: Path

    def run(
        self,
        settings: Mapping[str, Any],
        *,
        seconds: float,
        environment: Mapping[str, str] | None = None,
        say: Say = print,
    ) -> dict[str, Any]:
        """What it measured. Raises `Absent` when it fails or takes longer than `seconds`."""
        # The root is for ours alone: a peer must not pick up this checkout's packages.
        path = {"PYTHONPATH": str(ROOT)} if self.peer == OWN else {}
        command = [str(python_of(self.peer, say)), str(self.script), json.dumps(settings)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=seconds,
                env={**os.environ, **path, **(environment or {})},
            )
        except subprocess.TimeoutExpired:
            raise Absent(f"{self.peer} took longer than {seconds:.0f} s") from None
        if done.returncode:
            raise Absent(f"{self.peer} failed: {last_line(done.stderr)}")
        try:
            return json.loads(last_line(done.stdout))
        except ValueError:
            raise Absent(f"{self.peer} printed no result: {last_line(done.stdout)}") from None


def last_line(text: str) -> str:
    """The last line that is not empty.

    >>> last_line("one\\ntwo\\n\\n")
    'two'
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
