"""Bad links: a TCP proxy between a site and the gate, the HTTP proxy of a hospital, and network namespaces."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from segformer3d.addresses import LOOPBACK, Address

CHUNK = 2**16
HERE, THERE = "10.213.47.1", "10.213.47.2"  # the ends of the cable to another host


@dataclass
class Link:
    """A TCP proxy in this process. What it does to traffic can be changed while it runs.

    Attributes:
        target: where connections go; None for an HTTP proxy, which is told by each visitor (CONNECT).
        names: what an HTTP proxy knows of other hosts.
        host: where it listens.
        delay_s: seconds that every piece is held back.
        stalled: nothing moves, and nobody is told.
        swallowing: what the target answers is lost.
        visited: the addresses that connections were opened to.
    """

    target: Address | None
    names: dict[Address, Address] = field(default_factory=dict)
    host: str = LOOPBACK
    delay_s: float = 0.0
    stalled: bool = False
    swallowing: bool = False
    visited: list[Address] = field(default_factory=list)
    _open: set[socket.socket] = field(default_factory=set)
    _server: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._server = socket.create_server((self.host, 0))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.getsockname()[1])

    def __enter__(self) -> "Link":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections that are open now."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                visitor, _ = self._server.accept()
                threading.Thread(target=self._connect, args=(visitor,), daemon=True).start()

    def _connect(self, visitor: socket.socket) -> None:
        with visitor, suppress(OSError, ValueError):
            wanted = self.target or _asked_for(visitor)
            self.visited.append(wanted)
            there = self.names.get(wanted, wanted)
            with socket.create_connection((there.host, there.port)) as target:
                if self.target is None:
                    visitor.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._open |= {visitor, target}
                back = threading.Thread(target=self._pump, args=(target, visitor, True), daemon=True)
                back.start()
                self._pump(visitor, target, False)
                back.join()
                self._open -= {visitor, target}

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(CHUNK):
                time.sleep(self.delay_s)
                while self.stalled:
                    time.sleep(0.05)
                if not (answers and self.swallowing):
                    sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _asked_for(visitor: socket.socket) -> Address:
    request = b""
    while b"\r\n\r\n" not in request:
        request += visitor.recv(CHUNK) or b"\r\n\r\n"
    method, where, _ = request.split(b" ", 2)
    if method != b"CONNECT":
        raise ValueError(method)
    return Address.parse(where.decode("ascii"))


def inside_of(name: str) -> list[str]:
    """What to put in front of a command that is to run on another host."""
    return [shutil.which("ip") or "ip", "netns", "exec", name]


@contextmanager
def namespace(name: str, rate: str | None = None) -> Iterator[None]:
    """Another host: a network namespace with one cable to this one, of this rate (as in "2mbit") in both directions.

    This end has the address HERE. There is no route from there to anywhere else.
    """
    inside = inside_of(name)
    try:
        _root("ip", "netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root and network namespaces")
    try:
        _root("ip", "link", "add", f"{name}0", "type", "veth", "peer", "name", "eth0", "netns", name)
        _root("ip", "addr", "add", f"{HERE}/30", "dev", f"{name}0")
        _root("ip", "link", "set", f"{name}0", "up")
        _root(*inside, "ip", "addr", "add", f"{THERE}/30", "dev", "eth0")
        for device in ("lo", "eth0"):
            _root(*inside, "ip", "link", "set", device, "up")
        if rate is not None:
            shape = ("root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
            _root("tc", "qdisc", "add", "dev", f"{name}0", *shape)
            _root(*inside, "tc", "qdisc", "add", "dev", "eth0", *shape)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def _root(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
