"""A coordinator and its sites as operators run them: the `segfed` command, real processes, TLS on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from segformer3d.addresses import LOOPBACK, free_port
from segformer3d.errors import FederationError
from server.control import Node, open_control
from server.coordinator import open_coordinator

from ..commands import run_here

ROOT = Path(__file__).resolve().parents[2]
SEGFED = [sys.executable, str(ROOT / "segfed.py")]
PATIENCE_S = 240.0
WIDTH = "200"  # columns, enough for tables of commands


class Rig:
    """Everything lies in one folder. Leaving the `with` block ends what was started, whatever happened."""

    def __init__(self, folder: Path, sites: Sequence[Path], threads: int, hosts: Sequence[str] = (LOOPBACK,)) -> None:
        self.folder, self.coordinator = folder, folder / "coordinator"
        self.port, self.hosts = free_port(), hosts
        self.site_data = {f"site-{number}": data for number, data in enumerate(sites, start=1)}
        self.threads = threads
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Rig":
        listen = f"{LOOPBACK if self.hosts == (LOOPBACK,) else '0.0.0.0'}:{self.port}"
        names = [part for host in self.hosts for part in ("--host", host)]
        self.do("server", "init", self.coordinator, *names, "--port", self.port, "--listen", listen)
        for name, data in self.site_data.items():
            self.add_site(name, data)
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self.processes)):
            self.end(name)

    def add_site(self, name: str, data: Path) -> Path:
        """What the two operators do to let a site in."""
        folder = self.folder / name
        self.do("site", "init", folder, "--name", name, "--data", data, "--coordinator", f"{LOOPBACK}:{self.port}")
        (folder / "coordinator.crt").write_bytes((self.coordinator / "coordinator.crt").read_bytes())
        settings = folder / "site.toml"
        settings.write_text(f"threads = {self.threads}\n" + settings.read_text())
        self.do("server", "add-site", name, folder / "site.pub", "--folder", self.coordinator)
        return folder

    def do(self, *arguments: object) -> str:
        """Run a command to its end; returns what it printed."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def attempt(
        self, *arguments: object, prefix: Sequence[str] = (), **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, however that is: in this process, which has loaded all, unless it needs its own."""
        words = [str(word) for word in arguments]
        if not prefix and not variables:
            return _run_here(words)
        command, values = [*prefix, *SEGFED, *words], environment() | variables
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=values)

    def start_coordinator(self) -> None:
        """Start it and wait until SuperLink and gate answer."""
        self.start("coordinator", "server", "start", self.coordinator)
        self.wait("the coordinator", lambda: self.nodes() is not None)

    def join(self, *names: str) -> None:
        """Start sites and wait until they are connected."""
        for name in names:
            self.start_site(name)
        self.wait("the sites", lambda: all(self.is_connected(name) for name in names))

    def start_site(self, name: str, prefix: Sequence[str] = (), **variables: str) -> None:
        """Start a site, by a command in front of `segfed` and with more environment variables."""
        self.start(name, "site", "join", self.folder / name, prefix=prefix, **variables)

    def leave(self, *names: str) -> None:
        """End sites and wait until the coordinator knows that they are gone."""
        for name in names:
            self.end(name)
        self.wait("the sites' leaving", lambda: not any(self.is_connected(name) for name in names))

    def set_way(self, name: str, address: str, proxy: str | None = None) -> None:
        """Edit where a site finds the coordinator, and by which proxy."""
        path = self.folder / name / "site.toml"
        kept = [line for line in path.read_text().splitlines() if not line.startswith(("address", "proxy"))]
        at = kept.index("[coordinator]") + 1
        way = [f'address = "{address}"', *([f'proxy = "{proxy}"'] if proxy else [])]
        path.write_text("\n".join([*kept[:at], *way, *kept[at:]]) + "\n")

    def is_connected(self, name: str) -> bool:
        """Whether a site's heartbeats arrive at the coordinator."""
        return any(node.online for node in self.nodes() or () if node.name == name)

    def nodes(self) -> tuple[Node, ...] | None:
        """The registered sites; None when the coordinator does not answer."""
        try:
            with open_control(open_coordinator(self.coordinator)) as control:
                return control.nodes()
        except FederationError:
            return None

    def begin_run(self, federation: str) -> Path:
        """Submit a federation file; returns the run's folder."""
        path = self.folder / "federation.toml"
        path.write_text(federation)
        self.do("server", "run", path, "--folder", self.coordinator)
        return max((self.coordinator / "runs").iterdir())

    def outcome(self, run: Path, patience_s: float = PATIENCE_S) -> str | None:
        """Wait for the end of a run; None, or why it stopped."""
        self.wait("the end of the run", (run / "outcome.json").exists, patience_s)
        reason: str | None = json.loads((run / "outcome.json").read_text())["reason"]
        return reason

    def start(self, name: str, *arguments: object, prefix: Sequence[str] = (), **variables: str) -> None:
        """Start a command in the background; its output goes to NAME.out. It does not outlive the tests."""
        tether = [sys.executable, "-m", "segformer3d.tether", str(os.getpid())]
        command, values = [*tether, *prefix, *SEGFED, *map(str, arguments)], environment() | variables
        with (self.folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, env=values
            )

    def end(self, name: str) -> None:
        """End a command as an operator does (SIGTERM), or by force after a while."""
        process = self.processes.pop(name)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def process_of(self, owner: str, part: str) -> psutil.Process:
        """The process of a command's that has this text in its command line."""
        return self.processes_of(owner, part)[0]

    def processes_of(self, owner: str, part: str) -> list[psutil.Process]:
        """All of them, while they live."""
        found = []
        for process in psutil.Process(self.processes[owner].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # zombies included
                if any(part in word for word in process.cmdline()):
                    found.append(process)
        return found

    def wait(
        self, what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S, pause_s: float = 0.2
    ) -> None:
        """Wait until a condition holds; the logs are told if it does not."""
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"{what} took longer than {patience_s:g} s\n{self.logs()}"
            time.sleep(pause_s)

    def logs(self) -> str:
        """The ends of all logs."""
        kinds = ("*.out", "coordinator/logs/*.log", "*/work/*.log")
        files = [file for kind in kinds for file in sorted(self.folder.glob(kind))]
        return "\n".join(f"== {file}\n{file.read_text(errors='replace')[-1500:]}" for file in files)


def _run_here(words: list[str]) -> "subprocess.CompletedProcess[str]":
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", WIDTH)
        done = run_here(words)
    return subprocess.CompletedProcess(words, done.code, done.stdout, done.stderr)


def environment() -> dict[str, str]:
    """Modules of this checkout, wherever the command is started."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": WIDTH}
