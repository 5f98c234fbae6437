"""A clean, warm process that forks one program and its tester per grading.

It is a fresh interpreter, started by exec with an empty environment, so what it forks holds nothing of the trainer: no
weights, tests, tokens, descriptors. It keeps the deadlines, kills, reaps and tidies up, and leaves with its owner.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import select
import signal
import socket
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.code import candidate_process, script_process, tester_process
from rewards.code.confinement import RULES, Confinement, confine, import_through, keep_only, rules_for
from rewards.code.folders import remove_tree
from rewards.code.forking import children, closing, fork_to, kill, open_pipes, reaped
from rewards.code.limits import memory_in_use
from rewards.code.namespaces import new_file_system
from rewards.code.surroundings import Surroundings, examine
from rewards.code.system_calls import CLONE_NEWPID, PR_SET_CHILD_SUBREAPER, prctl, unmount

COMMON = (
    "abc array ast base64 bisect binascii calendar cmath collections.abc contextlib copy csv "
    "dataclasses datetime decimal difflib enum fractions functools hashlib heapq html inspect io itertools json "
    "keyword math numbers operator pprint queue random re secrets shutil statistics string struct "
    "tempfile textwrap threading time timeit traceback types typing unicodedata urllib.parse uuid warnings weakref zlib"
)
"""Modules that programs often import; the rest is imported when asked for."""
MAX_REQUEST_BYTES = 4096
_CPU_GRACE_SECONDS = 1
_FEW = 50
"""So many files and folders are removed between two gradings; more, by a process of its own."""


@dataclass
class _Grading:
    """One program and its tester."""

    line: socket.socket
    folder: str
    slot: int
    script: bool
    deadline: float
    candidate: int = 0
    tester: int = 0
    ended: dict[int, int] = field(default_factory=dict)
    """Exit status by pid, once reaped."""

    @property
    def done(self) -> bool:
        """A script may go on when its output is closed, and then its exit status still counts."""
        return self.tester in self.ended and (not self.script or self.candidate in self.ended)


def main(control: int, owner: int, settings: str) -> None:
    """Serve until the owner has gone. `owner`: its pidfd, or -1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the trainer's mask came through exec
    for name in COMMON.split():
        importlib.import_module(name)
    chosen = json.loads(settings)
    folder = tempfile.mkdtemp(prefix=f"textenv-code-{chosen['trainer']}-", dir=_place_for_folders())
    os.chmod(folder, 0o711)
    line = socket.socket(fileno=control)
    status = 1
    try:
        surroundings = examine(folder, frozenset(chosen["without"]), chosen["namespaces"], chosen["backend"])
        server = _Server(line, owner, folder, surroundings)
        told = {name: [layer.active, layer.detail] for name, layer in surroundings.layers.items()}
        line.send(json.dumps({"layers": told, "folder": folder}).encode())
        server.serve()
        status = 0
    except Exception:  # noqa: BLE001 - told on the trainer's stderr, who replaces this server
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):  # nothing is mounted there
            unmount(folder)
        remove_tree(folder)
        os._exit(status)  # nothing is left to tidy up, and somebody may be waiting


def _place_for_folders() -> str | None:
    """Where other users may pass through, if programs are given another user; None: the usual place."""
    if os.geteuid() != 0:
        return None
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")
    return next((place for place in places if os.path.isdir(place) and _open_to_all(place)), None)


def _open_to_all(path: str) -> bool:
    return all(os.stat(part).st_mode & 0o001 for part in (path, *map(str, Path(path).parents)))


class _Server:
    """Its gradings, by slot."""

    def __init__(self, line: socket.socket, owner: int, folder: str, surroundings: Surroundings) -> None:
        self._line = line
        self._owner = owner
        self._folder = folder
        self._around = surroundings
        self._how: Confinement = surroundings.confinement
        self._gradings: dict[int, _Grading] = {}
        self._made: set[str] = set()
        """Folders of slots."""
        self._removers: set[int] = set()
        """Processes that remove what takes longer."""
        self._count = 0
        self._pid = os.getpid()
        self._memory = memory_in_use()
        if self._how.library is not None:
            import_through(self._how.library)
        self._testers_rules = rules_for(self._how, [])
        self._woken, wakes = os.pipe()
        for descriptor in (self._woken, wakes):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        if self._around.strays:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        gc.collect()
        gc.freeze()  # a collection in a fork would write to, and so copy, every page
        gc.disable()

    def serve(self) -> None:
        """Answer requests, keep deadlines."""
        poll = select.poll()
        for descriptor in (self._line.fileno(), self._woken, self._owner):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        try:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll(self._patience())}
                if self._owner in ready or (self._line.fileno() in ready and not self._accept()):
                    return
                if self._woken in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                self._look_after()
        finally:
            for grading in list(self._gradings.values()):
                self._finish(grading, "the fork server ended")
            for pid in self._removers:
                reaped(pid, 0)

    def _patience(self) -> float | None:
        """Milliseconds until the next deadline."""
        if not self._gradings:
            return None
        soonest = min(grading.deadline for grading in self._gradings.values())
        return max(0.0, (soonest - time.monotonic()) * 1000 + 1)

    def _accept(self) -> bool:
        """Start one grading; False when the owner has closed the line."""
        message, descriptors, _, _ = socket.recv_fds(self._line, MAX_REQUEST_BYTES, 1)
        if not message:
            return False
        request, line = json.loads(message), socket.socket(fileno=descriptors[0])
        try:
            self._start(request, line)
        except OSError as error:
            _tell(line, {"failure": f"no process could be started: {error}"})
        return True

    def _start(self, request: dict[str, Any], line: socket.socket) -> None:
        slot = next(number for number in range(len(self._gradings) + 1) if number not in self._gradings)
        self._count += 1
        folder = os.path.join(self._place(slot), str(self._count))
        os.mkdir(folder, 0o700)
        users = self._around.users(slot)
        if users[0] is not None:
            os.chown(folder, users[0], users[0])
        grading = _Grading(line, folder, slot, request["script"], time.monotonic() + request["timeout_seconds"])
        self._gradings[slot] = grading
        try:
            self._fork(grading, request, users)
        except OSError as error:
            self._finish(grading, "", failure=f"no process could be started: {error}")

    def _fork(self, grading: _Grading, request: dict[str, Any], users: tuple[int | None, int | None]) -> None:
        limits = {
            "cpu_seconds": math.ceil(request["timeout_seconds"]) + _CPU_GRACE_SECONDS,
            "memory_bytes": self._memory + (request["memory_mb"] << 20),
        }
        with open_pipes(5 if grading.script else 2) as pipes, closing(rules_for(self._how, [grading.folder])) as rules:
            theirs, ours = _places(pipes, grading.script)

            def candidate() -> int:
                self._enter(theirs, rules, user=users[0], folder=grading.folder, **limits)
                return candidate_process.main(script=grading.script, folder=grading.folder)

            def tester() -> int:
                places = {tester_process.JOB: grading.line.fileno(), **ours}
                self._enter(places, self._testers_rules, user=users[1], folder="/", **limits)
                (script_process if grading.script else tester_process).main()
                return 0

            own = CLONE_NEWPID if self._around.own_pids else 0
            grading.candidate = fork_to(candidate, own)
            grading.tester = fork_to(tester, 0)

    def _enter(
        self, places: dict[int, int], rules: int | None, *, user: int | None, folder: str, **limits: int
    ) -> None:
        """What every forked process does first."""
        signal.set_wakeup_fd(-1)  # the handlers themselves may stay: nobody sends those signals, and they do nothing
        os.setsid()
        gc.enable()
        keep_only(places if rules is None else {RULES: rules, **places}, also=self._how.library)
        server = 0 if os.getppid() == 0 else self._pid  # in a pid namespace of its own the parent has no number
        rules = None if rules is None else RULES
        confine(self._how, user=user, folder=folder, rules=rules, server=server, **limits)

    def _look_after(self) -> None:
        """Reap what ended, finish what is done or late."""
        now = time.monotonic()
        self._removers -= {pid for pid in self._removers if reaped(pid, os.WNOHANG) is not None}
        for grading in list(self._gradings.values()):
            for pid in (grading.candidate, grading.tester):
                if pid not in grading.ended and (status := reaped(pid, os.WNOHANG)) is not None:
                    grading.ended[pid] = status
            if grading.done:
                self._finish(grading, "")
            elif now >= grading.deadline:
                self._finish(grading, "timed out")

    def _finish(self, grading: _Grading, ended: str, **more: str) -> None:
        """Kill, reap, tidy up, tell."""
        candidate = grading.ended.get(grading.candidate)
        for pid in (grading.tester, grading.candidate):  # a tester must not see its program die of the deadline
            if pid and pid not in grading.ended:
                kill(pid)
                grading.ended[pid] = reaped(pid, 0) or 0
        del self._gradings[grading.slot]
        if self._around.strays:
            self._kill_strays()
        self._clear(grading)
        _tell(grading.line, {"ended": ended, "status": candidate, **more})

    def _place(self, slot: int) -> str:
        """The folder of a slot's folders, where possible in a file system that no other slot can fill."""
        place = os.path.join(self._folder, f"slot{slot}")
        if place not in self._made:
            os.mkdir(place, 0o711)
            self._made.add(place)
            if self._around.own_files:
                new_file_system(place)
        return place

    def _clear(self, grading: _Grading) -> None:
        """Remove what a program wrote; much of it at once with its file system, or by a process of its own."""
        if remove_tree(grading.folder, most=_FEW):
            return
        place = self._place(grading.slot)
        if self._around.own_files:
            unmount(place)
            new_file_system(place)
        else:
            self._removers.add(fork_to(lambda: _remove(grading.folder), 0))

    def _kill_strays(self) -> None:
        """Processes that left their session and outlived the program: they are children of nobody but this server."""
        known = {pid for g in self._gradings.values() for pid in (g.candidate, g.tester)} | self._removers
        while strays := [pid for pid in children() if pid not in known]:
            for pid in strays:
                kill(pid)
                reaped(pid, 0)


def _remove(folder: str) -> int:
    keep_only({})  # the line to the trainer above all, who waits for its end
    return int(not remove_tree(folder))


def _ignore(*_: object) -> None:
    """The signal's byte in the pipe is what counts."""


def _places(pipes: list[tuple[int, int]], script: bool) -> tuple[dict[int, int], dict[int, int]]:
    """Which end of each pipe lies where: with the program, with its tester."""
    (asked, asks), (answered, answers) = pipes[:2]
    program = {candidate_process.REQUESTS: asked, candidate_process.REPLIES: answers}
    if not script:
        return program, {tester_process.TO_PROGRAM: asks, tester_process.FROM_PROGRAM: answered}
    (stdin, feeds), (prints, stdout), (complains, stderr) = pipes[2:]
    tester = {
        script_process.REQUESTS: asks,
        script_process.REPLIES: answered,
        script_process.STDIN: feeds,
        script_process.STDOUT: prints,
        script_process.STDERR: complains,
    }
    return {**program, 0: stdin, 1: stdout, 2: stderr}, tester


def _tell(line: socket.socket, message: dict[str, Any]) -> None:
    """The last words on a grading; the tester may have been killed within a line."""
    with contextlib.suppress(OSError), line:
        line.setblocking(False)
        line.send(b"\n" + json.dumps(message).encode() + b"\n")
