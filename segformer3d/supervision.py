"""Programs that are kept running: started, watched, started again when they end, and ended together.

The supervisor's programs die with it, however it dies (Linux tells them), so that nothing is left on a port. What they
print goes to a log file each, which is cut when it grows.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segformer3d.files import storage_errors

SHORTEST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 0.5, 15.0, 60.0
PATIENCE_S = 10.0  # for a program to end by itself
LARGEST_LOG = 20 * 2**20  # bytes
LOOK_S = 0.2


@dataclass(frozen=True)
class Service:
    """A program to keep running.

    Attributes:
        name: for people.
        command: what to start; the environment of the supervisor, with `environment` on top.
        environment: variables to set.
        log: where its output goes.
        remedy: the command that finds out why it ends again and again; its log, when there is none.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    remedy: str = ""


@dataclass
class _Child:
    service: Service
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = SHORTEST_PAUSE_S
    again_at: float = 0.0
    ends: int = 0  # since it last ran for a while


class Supervisor:
    """Keeps services running until it is told to stop.

    Args:
        services: in the order in which they are started; they are ended in the opposite order.
        say: told in one line what happens to them.
    """

    def __init__(self, services: Sequence[Service], say: Callable[[str], None]) -> None:
        self._children = [_Child(service) for service in services]
        self._say = say

    def run(self, stop: threading.Event, tick: Callable[[], None] = lambda: None) -> None:
        """Start all, and again whichever ends, until `stop` is set; `tick` is called a few times a second.

        Raises:
            StorageError: a log cannot be written.
        """
        try:
            while not stop.is_set():
                for child in self._children:
                    self._look_after(child)
                tick()
                stop.wait(LOOK_S)
        finally:
            self._end()

    def processes(self) -> dict[str, int | None]:
        """The process id of each service; None for one that is not running."""
        running = {c.service.name: c.process for c in self._children}
        return {name: p.pid if p is not None and p.poll() is None else None for name, p in running.items()}

    def _look_after(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.again_at:
                self._start(child)
            return
        status = child.process.poll()
        if status is None:
            _cut(child.service.log)
            if now - child.started > STEADY_S:
                child.pause, child.ends = SHORTEST_PAUSE_S, 0
            return
        child.process, child.again_at = None, now + child.pause
        child.ends += 1
        self._tell(child, status)
        child.pause = min(2 * child.pause, LONGEST_PAUSE_S)

    def _tell(self, child: _Child, status: int) -> None:
        """The 1st, 2nd, 4th, 8th time and so on: nobody reads a line every 15 s."""
        if child.ends & (child.ends - 1):
            return
        service, times = child.service, f", {child.ends} times so far" if child.ends > 1 else ""
        remedy = f"if this goes on: {service.remedy or f'see {service.log}'}"
        self._say(f"{service.name} ended ({_how(status)}{times}); it is started again in {child.pause:g} s; {remedy}")

    def _start(self, child: _Child) -> None:
        service = child.service
        with storage_errors(service.log):
            service.log.parent.mkdir(parents=True, exist_ok=True)
            with service.log.open("ab") as log:
                child.process = subprocess.Popen(  # noqa: S603 - our own programs
                    [sys.executable, "-m", "segformer3d.tether", str(os.getpid()), *service.command],
                    env={**os.environ, **service.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        child.started = time.monotonic()

    def _end(self) -> None:
        running = [c.process for c in reversed(self._children) if c.process is not None and c.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + PATIENCE_S
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def program(name: str) -> str:
    """A program of this Python environment, wherever PATH points."""
    return str(Path(sys.executable).parent / name)


def _cut(log: Path) -> None:
    """Keep one older log of the same size; programs append, so what they write next begins a new one."""
    with suppress(OSError):
        if log.stat().st_size > LARGEST_LOG:
            shutil.copyfile(log, log.with_suffix(".older.log"))
            os.truncate(log, 0)


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
