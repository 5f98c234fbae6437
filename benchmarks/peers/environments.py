"""A virtual environment for each peer, made once, and a worker run in it.

A peer is a file of requirements, `benchmarks/peers/<name>.txt`, and scripts that import nothing of ours, since their
environment does not have us. A line `# without: a b` in the file names packages to remove behind the installation: what
a peer asks for and does not need, and what would not load; `# no torch` leaves torch out, which others get first. A
worker is given its settings as one JSON argument and prints one JSON object as its last line. What cannot be installed
or run here is absent from a table with the reason, never a number.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        *([] if "# no torch" in wanted.read_text() else [[*pip, "install", "torch==2.13.0"]]),
        [*pip, "install", "-r", str(wanted)],
    ]
    if unwanted := without(wanted.read_text()):
        steps.append([*pip, "uninstall", "--yes", *unwanted])
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise Absent(f"{peer} cannot be installed: {last_line(done.stderr or done.stdout)}")
    mark.write_text(wanted.read_text())
    return python


def without(requirements: str) -> list[str]:
    """The packages that a file of requirements wants removed.

    >>> without("# without: torchvision torchaudio\\nvllm-cpu==0.32.0\\n")
    ['torchvision', 'torchaudio']
    """
    mark = "# without:"
    lines = [line for line in requirements.splitlines() if line.startswith(mark)]
    return [name for line in lines for name in line.removeprefix(mark).split()]


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
        process = self._open(settings, environment, say, stderr=subprocess.PIPE)
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Absent(f"{self.peer} took longer than {seconds:.0f} s") from None
        finally:
            kill_family(process)
            process.wait()
        if process.returncode:
            raise Absent(f"{self.peer} failed: {error_line(errors)}")
        try:
            return json.loads(last_line(out))
        except ValueError:
            raise Absent(f"{self.peer} printed no result: {last_line(out)}") from None

    def start(
        self,
        settings: Mapping[str, Any],
        *,
        seconds: float,
        environment: Mapping[str, str] | None = None,
        say: Say = print,
    ) -> Running:
        """The worker, loaded and waiting for questions (its script calls `answering.answer`), so that what takes
        minutes to load can still be measured in turn with others. Raises `Absent` as `run` does."""
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (the Running closes it)
        running = Running(self.peer, self._open(settings, environment, say, stderr=errors), errors)
        running.listen(seconds)
        return running

    def _open(
        self, settings: Mapping[str, Any], environment: Mapping[str, str] | None, say: Say, **streams: Any
    ) -> subprocess.Popen[str]:
        # The root is for ours alone: a peer must not pick up this checkout's packages.
        path = {"PYTHONPATH": str(ROOT)} if self.peer == OWN else {}
        return subprocess.Popen(
            [str(python_of(self.peer, say)), str(self.script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **path, **(environment or {})},
            start_new_session=True,  # its children can be ended with it
            **streams,
        )


class Running:
    """A worker that has loaded; one question at a time. Ends with `close`, or with a `with` block."""

    def __init__(self, peer: str, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self.peer, self._process, self._errors = peer, process, errors

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Its answer. Raises `Absent` when it fails or takes longer than `seconds`; it has ended then."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it is gone, and `listen` says why
        return self.listen(seconds)

    def listen(self, seconds: float) -> dict[str, Any]:
        """The next line it prints."""
        late = threading.Event()

        def end() -> None:
            late.set()
            kill_family(self._process)

        timer = threading.Timer(seconds, end)
        timer.start()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        reason = error_line(self._errors.read())
        self.close()
        raise Absent(
            f"{self.peer} took longer than {seconds:.0f} s" if late.is_set() else f"{self.peer} failed: {reason}"
        )

    def peak_memory_gb(self) -> float | None:
        """The most that it and its children have had resident, added up; None where the system does not tell."""
        sizes = [peak_of(process) for process in family(self._process.pid)]
        return sum(sizes) / 1e9 if any(sizes) else None

    def close(self) -> None:
        """End it and its children."""
        kill_family(self._process)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # a question that nobody read
                pass


def kill_family(process: subprocess.Popen[str]) -> None:
    """End a process that leads a session of its own, with all that it started there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def family(process: int) -> list[int]:
    """A process and its descendants, by Linux's account."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def peak_of(process: int) -> int:
    """Bytes that a process has had resident at most; 0 where that is not known."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def error_line(text: str) -> str:
    """The last line that names an error, since libraries like to print behind it.

    >>> error_line("Traceback ...\\nValueError: no\\nbye\\n")
    'ValueError: no'
    """
    named = [line for line in text.splitlines() if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return named[-1] if named else last_line(text)


def last_line(text: str) -> str:
    """The last line that is not empty.

    >>> last_line("one\\ntwo\\n\\n")
    'two'
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
