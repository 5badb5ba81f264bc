"""Freed memory is kept: the system's page faults tell."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from segformer3d.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(7)
torch.zeros(16, 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(16, 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 7:
        pytest.skip("the C library is not glibc")
    return int(done.stdout)


def test_memory_that_was_freed_is_used_again_without_a_page_fault() -> None:
    assert faults("keep") < faults("leave") / 2
