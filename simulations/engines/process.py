"""The engine's end of a worker process: start it, exchange parcels with it, see it die, end it."""

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import cast

from segformer3d.errors import FederationError
from segformer3d.processes import interrupts_kept_here
from simulations.engines.parcels import Parcel, receive, send
from simulations.engines.source import ClientSource
from simulations.engines.worker import run_worker

WATCH_SECONDS = 0.5

_spawn = multiprocessing.get_context("spawn")
_children = threading.Lock()  # multiprocessing starts and reaps processes without one


class WorkerDiedError(Exception):
    """The worker ended instead of answering; the text says how."""


@dataclass
class _Child:
    process: SpawnProcess
    connection: Connection
    ready: bool = False


class WorkerProcess:
    """One worker, and after its death the next one. `end` may be called from any thread, the rest from one."""

    def __init__(self, source: ClientSource, log: Path) -> None:
        self._source = source
        self._log = log
        self._child: _Child | None = None
        self._ended = False

    def start(self) -> None:
        """Start a process without waiting for it.

        Raises:
            WorkerDiedError: `end` has been called.
        """
        with _children:
            if self._ended:
                raise WorkerDiedError("it was ended")
            self._child = _start(self._source, self._log)

    def exchange(self, context: Parcel, message: Parcel) -> tuple[Parcel, Parcel]:
        """The context after a message, and the reply. A worker that dies over it is replaced by a new one.

        `start` comes first.

        Raises:
            WorkerDiedError: the worker ended without a reply.
            FederationError: the worker cannot start or cannot make the ClientApp.
        """
        child = cast(_Child, self._child)
        self._wait_until_ready(child)
        try:
            _check(child)
            send(child.connection, context)
            send(child.connection, message)
            _wait_for_bytes(child)
            return receive(child.connection), receive(child.connection)
        except (EOFError, OSError):
            died = WorkerDiedError(_bury(child))
            self.start()
            raise died from None

    def end(self) -> None:
        """End the process and everything it has started, at once."""
        with _children:
            self._ended = True
            if self._child is not None:
                _kill(self._child.process)

    def _wait_until_ready(self, child: _Child) -> None:
        if child.ready:
            return
        try:
            _wait_for_bytes(child)
            complaint = child.connection.recv_bytes().decode()
        except (EOFError, OSError):
            complaint = f"a process for the sites' work ended while it started ({_bury(child)}); see {self._log}"
        if complaint:
            raise FederationError(complaint)
        child.ready = True


def _start(source: ClientSource, log: Path) -> _Child:
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=run_worker, args=(theirs, source, log))
    with interrupts_kept_here():
        process.start()
    theirs.close()  # or its end would never be seen
    return _Child(process, ours)


def _wait_for_bytes(child: _Child) -> None:
    """The connection stays open as long as anything lives that the worker has started, so the worker is watched too."""
    while not child.connection.poll(WATCH_SECONDS):
        _check(child)


def _check(child: _Child) -> None:
    with _children:
        if not child.process.is_alive() and not child.connection.poll():
            raise EOFError


def _bury(child: _Child) -> str:
    """Remove what is left of a dead process; returns how it ended."""
    child.connection.close()
    with _children:
        child.process.join(timeout=1)  # a process that only closed its connection is not waited for
        code = child.process.exitcode
        _kill(child.process)
    return _describe(code)


def _kill(process: SpawnProcess) -> None:
    """End a process that has been started, and its group."""
    with suppress(ProcessLookupError):  # it had no time to make its group, or the whole group is gone
        os.killpg(cast(int, process.pid), signal.SIGKILL)
    process.kill()
    process.join()


def _describe(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    return f"{name}, often too little memory: let fewer sites work in parallel" if name == "SIGKILL" else name
