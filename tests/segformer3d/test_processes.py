"""Work in processes: results in order, errors as themselves, a dead worker is said, Ctrl-C leaves nothing running."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import active_children

import psutil
import pytest

from segformer3d.errors import CaseError
from segformer3d.processes import ProcessError, map_in_processes

SLEEPERS = """
import sys, time
from segformer3d.processes import map_in_processes
if __name__ == "__main__":
    print("started", flush=True)
    map_in_processes(time.sleep, [600, 600], 2)
"""


def refuse(_: int) -> None:
    raise CaseError("the case is damaged")


def test_results_come_in_the_order_of_the_items():
    assert map_in_processes(abs, [-3, -1, -2], 2) == [3, 1, 2]


def test_an_error_in_a_process_is_raised_here_and_ends_the_others():
    before = set(active_children())
    with pytest.raises(CaseError, match="damaged"):
        map_in_processes(refuse, [1, 2], 2)
    deadline = time.monotonic() + 30
    while set(active_children()) - before and time.monotonic() < deadline:
        time.sleep(0.01)  # the pool's own thread reaps them, and may be at it
    assert set(active_children()) <= before


def late_or_refused(seconds: float) -> None:
    time.sleep(seconds)
    if not seconds:
        raise CaseError("the case is damaged")


def test_an_error_does_not_wait_for_the_work_before_it():
    began = time.monotonic()
    with pytest.raises(CaseError, match="damaged"):
        map_in_processes(late_or_refused, [300, 0], 2)
    assert time.monotonic() - began < 200


def test_results_are_told_in_the_order_of_the_items():
    told = []
    map_in_processes(abs, [-3, -1, -2, -5], 2, told.append)
    assert told == [3, 1, 2, 5]


def test_a_process_that_dies_is_one_line():
    with pytest.raises(ProcessError, match="memory"):
        map_in_processes(os._exit, [1], 1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_ends_the_parent_ends_its_children_at_once(tmp_path, how):
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        children = children_of(process)
        began = time.monotonic()
        if how is signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does it: to the whole group
        else:
            process.kill()
        process.communicate(timeout=60)
        _, left = psutil.wait_procs(children, timeout=30)
        assert not left
        assert time.monotonic() - began < 30
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Two that sleep, and the one that multiprocessing starts beside them."""
    deadline = time.monotonic() + 60
    while len(children := psutil.Process(process.pid).children()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return children
