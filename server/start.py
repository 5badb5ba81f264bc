"""`segfed server start`: everything that a coordinator runs, kept running.

SuperLink (loopback, TLS, keys of sites checked, SQLite, ServerApps elsewhere), the executor that starts ServerApps, and
the gate. A run whose ServerApp was killed is submitted again and goes on from its last complete round.
"""

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from client.offline import SWITCHES
from segformer3d.addresses import LOOPBACK, free_port
from segformer3d.errors import FederationError
from segformer3d.files import StorageError, write_secret
from segformer3d.health import HealthServer
from segformer3d.supervision import Service, Supervisor, program
from segformer3d.terminal import make_console
from server.control import open_control, register_sites
from server.coordinator import COORDINATOR, Coordinator, open_coordinator
from server.running import EXECUTOR, GATE, SUPERLINK, Running, forget_running, running_now, write_running
from server.submissions import CutOffRuns

SECRET_FILE = "executor.secret"  # noqa: S105 - its name
TIDY_S = 2.0
EXECUTOR_POLL_S = "0.5"


def start_and_print(folder: str) -> None:
    """Run a coordinator until Ctrl-C or SIGTERM.

    Raises:
        SegfedError: there is no coordinator in the folder, it runs already, or the disk is full.
    """
    coordinator = open_coordinator(Path(folder))
    if running_now(coordinator) is not None:
        raise FederationError(f"this coordinator runs already; see: segfed server status {folder}")
    console = make_console()
    port, secret = superlink_port(coordinator), _make_secret(coordinator)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    health = HealthServer((SUPERLINK, EXECUTOR, GATE))
    write_running(coordinator, Running(port, health.port))
    console.print(f"coordinator {coordinator.address}, gate on {coordinator.listen}; logs in {coordinator.logs}")
    supervisor = Supervisor(services(coordinator, port, secret), lambda text: console.print(text, style="yellow"))
    try:
        supervisor.run(stop, _Tidying(coordinator, supervisor, health, console.print).tick)
    finally:
        health.stop()
        forget_running(coordinator)
    console.print("stopped; runs go on when the coordinator is started again")


def superlink_port(coordinator: Coordinator) -> int:
    """Where SuperLink will listen: as the settings say, or anywhere but where the gate is about to."""
    return coordinator.superlink_port or free_port({coordinator.listen.port})


def services(coordinator: Coordinator, port: int, secret: Path) -> list[Service]:
    """SuperLink, executor and gate, with SuperLink on this port of the loopback interface."""
    authority = coordinator.pair("authority")[0]
    certificate, key = coordinator.pair("superlink")
    tls = ["--ssl-ca-certfile", authority, "--ssl-certfile", certificate, "--ssl-keyfile", key]
    superlink = [program("flower-superlink"), "--host", LOOPBACK, "--port", port, *tls, "--enable-supernode-auth"]
    superlink += ["--database", coordinator.state / "superlink.db", "--isolation", "process"]
    superlink += ["--superexec-auth-secret-file", secret, "--disable-runtime-dependency-installation"]
    executor = [program("flower-superexec"), "--root-certificates", authority]
    executor += ["--runtime-api-address", f"{LOOPBACK}:{port}", "--superexec-auth-secret-file", secret]
    gate = [program("python"), "-m", "server.gate_process", coordinator.folder]
    commands = {SUPERLINK: superlink, EXECUTOR: executor, GATE: gate}
    return [
        Service(n, [str(part) for part in command], _environment(coordinator, n), coordinator.logs / f"{n}.log")
        for n, command in commands.items()
    ]


def _environment(coordinator: Coordinator, name: str) -> dict[str, str]:
    """Flower's own folder for each, its programs on PATH, no network, and loopback without a proxy."""
    return {
        **SWITCHES,
        COORDINATOR: str(coordinator.folder),
        "FLWR_HOME": str(coordinator.state / f"flower-{name}"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": EXECUTOR_POLL_S,
        "PATH": f"{Path(program('python')).parent}:{os.environ.get('PATH', '')}",
    }


def _make_secret(coordinator: Coordinator) -> Path:
    """A new secret between SuperLink and its executor, at every start."""
    path = coordinator.state / SECRET_FILE
    path.unlink(missing_ok=True)
    write_secret(path, secrets.token_hex(32).encode())
    return path


class _Tidying:
    """What a coordinator sees to: its health, and now and then sites added or removed, and runs that were cut off."""

    def __init__(
        self, coordinator: Coordinator, supervisor: Supervisor, health: HealthServer, say: Callable[[str], None]
    ) -> None:
        self._coordinator, self._cut_off = coordinator, CutOffRuns(coordinator, say)
        self._supervisor, self._health = supervisor, health
        self._next = 0.0

    def tick(self) -> None:
        self._health.update(self._supervisor.processes())
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + TIDY_S
        try:
            with open_control(self._coordinator) as control:
                register_sites(control, self._coordinator)
                self._cut_off.resume(control)
        except (FederationError, StorageError):  # SuperLink is starting, or the disk is full; it is tried again soon
            return
