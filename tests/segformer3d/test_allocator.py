"""Freed memory is kept: the system's page faults tell."""

import subprocess
import sys

import pytest

FAULTS = """
import os, resource, sys, torch
from segformer3d.allocator import keep_freed_memory
torch.set_num_threads(1)
keeps = os.fork() == 0
if keeps and not keep_freed_memory():
    sys.exit(7)
for turn in range(15):
    if turn == 10:  # glibc may keep the first seven for requests of another kind
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(9, 2**20)  # 36 MB: what is smaller than 32, glibc may keep by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
if not keeps:
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_memory_that_was_freed_is_used_again_without_a_page_fault() -> None:
    """In one of two processes, which are one until PyTorch is there; the other has thousands of faults."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 7:
        pytest.skip("the C library is not glibc")
    kept, left = sorted(map(int, done.stdout.split()))
    assert kept < left / 2
