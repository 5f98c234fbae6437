"""The trusted side of a script: feeds its stdin and keeps what it prints. Who compares is the trainer."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable

from rewards.code.candidate_process import READY
from rewards.code.plain_data import to_line
from rewards.code.tester_process import JOB, MAX_PROGRAM_BYTES, STARTED, read_all

REQUESTS, REPLIES, STDIN, STDOUT, STDERR = 5, 6, 7, 8, 9
"""Where the descriptors lie, beside that of the job."""
MAX_OUTPUT_BYTES = 1 << 20
_MAX_ERROR_BYTES = 1 << 16


def main() -> None:
    """Read a job, run it, report what was printed, in one line of JSON."""
    line = os.fdopen(JOB, "r+b", buffering=0)
    job = json.loads(read_all(line))
    if os.read(REPLIES, len(READY)) != READY:
        return  # the confinement failed: nobody was started
    line.write(json.dumps(STARTED).encode() + b"\n")
    os.set_blocking(REQUESTS, False)
    os.set_blocking(STDIN, False)
    program, stdin = to_line(job["program"], limit=MAX_PROGRAM_BYTES), job["stdin"].encode(errors="replace")
    output, errors = _Kept(MAX_OUTPUT_BYTES), _Kept(_MAX_ERROR_BYTES)
    _pump({REQUESTS: program, STDIN: stdin}, {STDOUT: output, STDERR: errors})
    told = {
        "stdout": bytes(output.data).decode(errors="replace"),
        "too_long": output.seen > MAX_OUTPUT_BYTES,
        "stderr": bytes(errors.data).decode(errors="replace").strip().rpartition("\n")[2][:300],
    }
    line.write(json.dumps(told).encode() + b"\n")


class _Kept:
    """The first bytes of a stream; the rest is only counted, so that nobody who prints has to wait."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.seen = 0
        self._limit = limit

    def add(self, part: bytes) -> None:
        self.seen += len(part)
        self.data += part[: self._limit - len(self.data)]


def _pump(sent: dict[int, bytes], kept: dict[int, _Kept]) -> None:
    """Write and read side by side until both outputs have ended."""
    waiting = {descriptor: memoryview(data) for descriptor, data in sent.items()}
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLOUT)
    for descriptor in kept:
        poll.register(descriptor, select.POLLIN)
    reading = set(kept)

    def done(descriptor: int, of: Callable[[int], object]) -> None:
        poll.unregister(descriptor)
        os.close(descriptor)
        of(descriptor)

    while reading:
        for descriptor, _ in poll.poll():
            if descriptor in kept:
                part = os.read(descriptor, 1 << 16)
                kept[descriptor].add(part)
                if not part:
                    done(descriptor, reading.discard)
                continue
            try:
                waiting[descriptor] = waiting[descriptor][os.write(descriptor, waiting[descriptor][:4096]) :]
            except OSError:  # it has ended, or does not read
                waiting[descriptor] = memoryview(b"")
            if not waiting[descriptor]:
                done(descriptor, waiting.pop)
