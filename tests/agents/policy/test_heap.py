"""Freed memory is kept, until too much of it has come together."""

import subprocess
import sys

import pytest

from agents.policy.heap import glibc, resident_bytes

pytestmark = pytest.mark.skipif(glibc() is None, reason="only glibc is told what to keep")

IN_A_PROCESS_OF_ITS_OWN = """
import torch
from agents.policy.heap import GROWTH, Heap, keep_freed_memory, resident_bytes

MB = 2**20

def take(number):
    blocks = [torch.ones(MB // 4) for _ in range(number)]  # a megabyte each
    last = torch.ones(1)  # on top of them, so that nothing is given back by itself
    return blocks, last

keep_freed_memory()
heap, held = Heap(), []
start = resident_bytes()
blocks, last = take(100)
del blocks
kept = resident_bytes() - start
assert 90 * MB < kept < 130 * MB, kept  # freed and still there
assert not heap.settle()  # the first iteration says what is needed
assert not heap.settle()  # nothing has grown
blocks, more = take(100 + int(GROWTH * start / MB))
del blocks
grown = resident_bytes()
assert heap.settle()
given = grown - resident_bytes()
assert given > 0.9 * (100 * MB + (GROWTH - 1) * start), (given, grown, start)
assert not heap.settle()  # measured anew
"""


def test_freed_memory_is_kept_and_given_back_when_it_has_grown():
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_resident_memory_is_that_of_this_process():
    assert 10 * 2**20 < resident_bytes() < 2**40
