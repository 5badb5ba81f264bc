"""Programs that are kept running. Real processes; the oracle is what the system says of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from segformer3d import supervision
from segformer3d.supervision import Service, Supervisor

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]


def service(folder: Path, name: str = "one", command: list[str] = SLEEP) -> Service:
    return Service(name, command, {"TOLD": "yes"}, folder / f"{name}.log")


def play(supervisor: Supervisor, until: Callable[[], bool], seconds: float = 30) -> None:
    """Run a supervisor until a condition holds."""
    stop, deadline = threading.Event(), time.monotonic() + seconds

    def tick() -> None:
        if until() or time.monotonic() > deadline:
            stop.set()

    supervisor.run(stop, tick)
    assert until() or time.monotonic() < deadline


def is_alive(process: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_program_that_is_killed_is_started_again(tmp_path: Path) -> None:
    told: list[str] = []
    supervisor = Supervisor([service(tmp_path)], told.append)
    seen: list[int] = []

    def twice() -> bool:
        process = supervisor.processes()["one"]
        if process is not None and process not in seen and (tmp_path / "one.log").read_text().count("here") > len(seen):
            seen.append(process)
            os.kill(process, signal.SIGKILL)
        return len(seen) == 2

    play(supervisor, twice)
    log = tmp_path / "one.log"
    assert told[0] == f"one ended (SIGKILL); it is started again in 0.5 s; if this goes on: see {log}"
    assert not any(is_alive(process) for process in seen)


def test_pauses_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "SHORTEST_PAUSE_S", 0.1)
    told: list[str] = []
    failing = service(tmp_path, command=[sys.executable, "-c", "raise SystemExit(3)"])
    supervisor = Supervisor([failing], told.append)
    for child in supervisor._children:
        child.pause = 0.1
    play(supervisor, lambda: len(told) == 3)
    remedy = f"if this goes on: see {tmp_path / 'one.log'}"
    assert told == [
        f"one ended (exit status 3); it is started again in 0.1 s; {remedy}",
        f"one ended (exit status 3, 2 times so far); it is started again in 0.2 s; {remedy}",
        f"one ended (exit status 3, 4 times so far); it is started again in 0.8 s; {remedy}",
    ]


def test_all_are_ended_in_the_opposite_order_and_their_families_too(tmp_path: Path) -> None:
    parent = [
        sys.executable,
        "-c",
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(p.pid, flush=True); time.sleep(600)",
    ]
    supervisor = Supervisor([service(tmp_path), service(tmp_path, "two", parent)], print)
    log = tmp_path / "two.log"
    play(supervisor, lambda: log.exists() and log.read_text().strip().isdigit())
    deadline = time.monotonic() + 30
    while is_alive(int(log.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert supervisor.processes() == {"one": None, "two": None}


def test_programs_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, threading; from pathlib import Path; from segformer3d.supervision import *;"
        "s = [sys.executable, '-c', \"import os, time; print(os.getpid(), flush=True); time.sleep(600)\"];"
        f"Supervisor([Service('one', s, {{}}, Path({str(tmp_path / 'one.log')!r}))], print).run(threading.Event())"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    log, deadline = tmp_path / "one.log", time.monotonic() + 60
    while not (log.exists() and log.read_text().strip().isdigit()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child = int(log.read_text())
    process.kill()
    process.wait()
    while is_alive(child):
        assert time.monotonic() < deadline, "it outlived its supervisor"
        time.sleep(0.1)


def test_logs_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "LARGEST_LOG", 1000)
    chatty = [sys.executable, "-c", "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.01)"]
    supervisor = Supervisor([service(tmp_path, command=chatty)], print)
    play(supervisor, (tmp_path / "one.older.log").exists)
    assert (tmp_path / "one.log").stat().st_size < 20_000
