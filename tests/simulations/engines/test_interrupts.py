"""Ctrl-C and sudden death of the engine's own process: no process stays, nothing is printed, nothing hangs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import wait_until
from .toy_federation import at_work

ROOT = Path(__file__).resolve().parents[3]


def start(engine: str, folder: Path) -> "subprocess.Popen[str]":
    """An endless federation in a process group of its own, like a command in a terminal."""
    command = [sys.executable, "-m", f"{__package__}.endless_run", engine, str(folder / "log"), str(folder / "end")]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("moment", ["while processes start", "while sites work"])
def test_ctrl_c_ends_everything_quietly(moment: str, tmp_path: Path, descendants: Callable[[], list[str]]) -> None:
    with start("local", tmp_path) as program:
        if moment == "while sites work":
            assert wait_until(lambda: two_at_work(tmp_path / "end"))
        else:
            assert wait_until(lambda: len(descendants()) == 3)
        os.killpg(program.pid, signal.SIGINT)
        assert program.communicate(timeout=60) == ("interrupted\n", "")
    assert descendants() == []


def test_the_sites_do_not_outlive_a_program_that_is_killed(
    tmp_path: Path, descendants: Callable[[], list[str]]
) -> None:
    with start("local", tmp_path) as program:
        assert wait_until(lambda: two_at_work(tmp_path / "end"))
        program.kill()
        program.communicate(timeout=60)
    assert wait_until(lambda: descendants() == [])


def two_at_work(end: Path) -> bool:
    return sum(at_work(end, site).exists() for site in range(3)) == 2
