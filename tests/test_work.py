"""The plugin that measures what tests cost, and what becomes of a test that hangs: pytest on tests of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
Played = tuple[str, dict[str, list[float]]]
BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"
TESTS = f"""
import subprocess, sys, time
import psutil, pytest

BURN = {BURN!r}

@pytest.fixture(scope="module")
def shared():
    exec(BURN.format(seconds=0.5))

def test_that_shares(shared):
    pass

def test_of_a_process():
    subprocess.run([sys.executable, "-c", BURN.format(seconds=1)], check=True)

def test_of_an_orphan():
    '''Its parent is killed: nobody waits for it.'''
    parent = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, BURN.format(seconds=2)], stdout=subprocess.PIPE, text=True
    )
    orphan = psutil.Process(int(process.stdout.readline()))
    while sum(orphan.cpu_times()[:2]) < 1.5:
        time.sleep(0.05)
    process.kill()
    process.wait()

@pytest.mark.timeout(2)
def test_that_hangs():
    process = subprocess.Popen(["sleep", "600"])
    print("child", process.pid)
    process.wait()
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """What pytest prints, and work and time of each test and shared fixture."""
    folder = tmp_path_factory.mktemp("played")
    (folder / "test_some.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\ntimeout_method = signal\n")
    words = ["-p", "tests.work", "-p", "no:cacheprovider", "-s", "--costs", "costs.json", "test_some.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr, json.loads((folder / "costs.json").read_text())


def test_work_is_the_processor_time_of_a_test_and_of_all_that_it_starts(
    played: Played,
) -> None:
    _, costs = played
    work = {name.rpartition(": ")[2].rpartition("::")[2]: work for name, (work, _) in costs.items()}
    assert work["shared"] == pytest.approx(0.5, abs=0.3)
    assert work["test_that_shares"] < 0.3
    assert work["test_of_a_process"] == pytest.approx(1, abs=0.4)
    assert 0.3 < work["test_of_an_orphan"] < 2.5


def test_what_hangs_fails_with_every_stack_and_ends_what_it_has_started(
    played: Played,
) -> None:
    told, _ = played
    assert "test_that_hangs - Failed: Timeout" in told
    assert ">       process.wait()" in told
    assert "_look_for_ever" in told, "a thread that the plugin has"
    child = int(told.split("child ")[1].split()[0])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("seconds", "code", "told"),
    [(0.2, 0, ""), (2, 1, "test_some.py::test_it takes 2 s of work, and may take 1: give it")],
)
def test_too_much_work_breaks_the_budget(tmp_path: Path, seconds: float, code: int, told: str) -> None:
    """With a limit of one second in place of forty."""
    (tmp_path / "test_some.py").write_text(f"def test_it():\n    exec({BURN.format(seconds=seconds)!r})\n")
    (tmp_path / "conftest.py").write_text("from tests import work\nwork.TEST_LIMIT = 1.0\n")
    words = ["-p", "tests.work", "-p", "no:cacheprovider", "--budget", "test_some.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert told in done.stdout
