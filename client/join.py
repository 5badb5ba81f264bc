"""`segfed site join`: the SuperNode that talks to the coordinator, and the worker that computes, both kept running.

A SuperNode that was killed may not come back for a minute, because the coordinator still thinks it is there; it is
started again until it may. Only this machine's loopback interface is listened on, and every connection goes out.
"""

import secrets
import signal
import threading
from pathlib import Path

from client.offline import SWITCHES
from client.running import RUNNING_FILE, SUPERNODE, WORKER, Running, read_running, write_running
from client.site_file import SITE, SiteFile, read_site_file
from segformer3d.addresses import LOOPBACK, free_port
from segformer3d.errors import ConfigurationError
from segformer3d.files import write_secret
from segformer3d.health import HealthServer
from segformer3d.supervision import Service, Supervisor, program
from segformer3d.terminal import make_console

SECRET_FILE = "executor.secret"  # noqa: S105 - its name


def join_and_print(folder: str) -> None:
    """Take part until Ctrl-C or SIGTERM.

    Raises:
        SegfedError: the site file or the key is not as it must be, or the disk is full.
    """
    site = read_site_file(Path(folder))
    if not site.key.exists():
        raise ConfigurationError(f"there is no key {site.key}; make one with: segfed site init {folder}")
    console, work = make_console(), site.site.work
    work.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if read_running(work) is not None:
        raise ConfigurationError(f"site {site.site.name} has joined already; see: segfed site status {folder}")
    port, health = free_port(), HealthServer((SUPERNODE, WORKER))
    write_running(work, Running(health.port))
    console.print(f"site {site.site.name} joins {site.coordinator}; Ctrl-C leaves. Logs in {work}", soft_wrap=True)
    services = site_services(site, port, _make_secret(work))
    supervisor = Supervisor(services, lambda text: console.print(text, style="yellow", soft_wrap=True))
    try:
        supervisor.run(stop, lambda: health.update(supervisor.processes()))
    finally:
        health.stop()
        (work / RUNNING_FILE).unlink(missing_ok=True)
    console.print("left; what was prepared stays, and the site can join again at any time")


def site_services(site: SiteFile, port: int, secret: Path) -> list[Service]:
    """SuperNode and worker, who meet on this port of the loopback interface."""
    work = site.site.work
    supernode = [program("python"), "-m", "client.supernode", "--superlink", str(site.coordinator)]
    supernode += ["--root-certificates", str(site.certificate), "--auth-supernode-private-key", str(site.key)]
    supernode += ["--host", LOOPBACK, "--port", str(port), "--isolation", "process"]
    supernode += ["--superexec-auth-secret-file", str(secret)]
    worker = [program("python"), "-m", "client.worker", str(port), str(secret)]
    environment = {**SWITCHES, SITE: str(site.folder), "FLWR_HOME": str(work / "flower")}
    outbound = {"HTTPS_PROXY": site.proxy} if site.proxy else {}
    check = f"segfed site check {site.folder}"
    return [
        Service(SUPERNODE, supernode, environment | outbound, work / "supernode.log", check),
        Service(WORKER, worker, environment, work / "worker.log"),
    ]


def _make_secret(work: Path) -> Path:
    """A new secret between SuperNode and worker, at every start."""
    path = work / SECRET_FILE
    path.unlink(missing_ok=True)
    write_secret(path, secrets.token_hex(32).encode())
    return path
