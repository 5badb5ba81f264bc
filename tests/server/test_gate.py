"""The gate's patience and its limits, over real sockets and TLS. What strangers try is in tests/deployment."""

import asyncio
import contextlib
import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segformer3d.addresses import Address, free_port
from server.coordinator import Coordinator, set_up
from server.gate import Gate, GateLimits

PATH = "/v1/fleet/pull-messages"
LIMITS = GateLimits(
    connections=8, connections_a_host=4, body=2**20, handshake_s=1, header_s=1, idle_s=2, slowest=1000, answer_s=1
)


@dataclass
class Door:
    """A gate that runs, and what it refused."""

    port: int
    trusted: Path
    refused: list[tuple[int, str]] = field(default_factory=list)

    def visit(self, timeout: float = 30) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self.trusted)
        return http.client.HTTPSConnection("localhost", self.port, context=context, timeout=timeout)


class Echo(BaseHTTPRequestHandler):
    """In SuperLink's place: answers with what it was sent; "slow" takes its time, "cut" breaks off."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if body == b"slow":
            time.sleep(3)
        self.send_response(200)
        self.send_header("content-length", str(len(body) + (5 if body == b"cut" else 0)))
        self.send_header("x-asked", self.headers.get("x-own", ""))
        with contextlib.suppress(OSError):  # the gate has lost its patience
            self.end_headers()
            self.wfile.write(body)
        if body == b"cut":
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    folder = tmp_path_factory.mktemp("gate")
    return set_up(folder, Address("localhost", 1), Address("127.0.0.1", 1), ["localhost"], None)


@pytest.fixture
def superlink(coordinator: Coordinator) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*coordinator.pair("superlink"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@contextlib.contextmanager
def open_gate(coordinator: Coordinator, superlink: int) -> Iterator[Door]:
    made = Door(free_port(), coordinator.trusted)
    outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    outside.load_cert_chain(*coordinator.pair("gate"))
    inside = ssl.create_default_context(cafile=coordinator.pair("authority")[0])

    def refused(_: str, status: int, why: str) -> None:
        made.refused.append((status, why))

    gate = Gate(outside, Address("127.0.0.1", superlink), inside, LIMITS, refused)
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        started.append((asyncio.get_running_loop(), stop))
        serving = asyncio.create_task(gate.serve(Address("127.0.0.1", made.port)))
        await stop.wait()
        serving.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    connected = False
    while not connected:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", made.port), 1):
            connected = True
    try:
        yield made
    finally:
        loop, stop = started[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def door(coordinator: Coordinator, superlink: int) -> Iterator[Door]:
    with open_gate(coordinator, superlink) as made:
        yield made


@pytest.mark.parametrize("size", [0, 1, 70_000, 2**20])
def test_requests_and_answers_pass_unchanged(door: Door, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    visitor = door.visit()
    for number in range(3):  # on one connection
        visitor.request("POST", PATH, body, {"x-own": str(number)})
        answer = visitor.getresponse()
        assert (answer.status, answer.headers["x-asked"], answer.read()) == (200, str(number), body)
    visitor.close()


def test_one_byte_too_many_is_refused(door: Door) -> None:
    visitor = door.visit()
    visitor.putrequest("POST", PATH)
    visitor.putheader("content-length", str(2**20 + 1))
    visitor.endheaders()
    assert visitor.getresponse().status == 413
    visitor.close()


def test_no_more_from_one_address_than_agreed(door: Door) -> None:
    with contextlib.ExitStack() as opened:
        visitors = [opened.enter_context(contextlib.closing(door.visit())) for _ in range(6)]
        *first, fifth, again = visitors
        for visitor in first:
            visitor.request("POST", PATH, b"")
            assert visitor.getresponse().read() == b""
        with pytest.raises((ssl.SSLError, ConnectionError)):
            fifth.connect()
        first[-1].close()
        time.sleep(0.3)
        again.request("POST", PATH, b"hello")
        assert again.getresponse().read() == b"hello"


def test_who_says_nothing_is_closed(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port), 10) as plain:
        began = time.monotonic()
        assert plain.recv(1) == b""
        assert 0.5 < time.monotonic() - began < 8


def test_a_header_or_a_body_that_drips_is_refused(door: Door) -> None:
    for head in (b"POST " + PATH.encode() + b" HTTP/1.1\r\n", _head(10_000)):
        visitor = door.visit()
        visitor.connect()
        visitor.sock.sendall(head)
        began = time.monotonic()
        received = b""
        with contextlib.suppress(OSError):
            while not received:
                visitor.sock.sendall(b"a")
                visitor.sock.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    received = visitor.sock.recv(1000)
                assert time.monotonic() - began < 20
        assert received.startswith(b"HTTP/1.1 408"), received
        visitor.close()


def test_a_superlink_that_hangs_or_breaks_off(door: Door) -> None:
    for body, statuses in ((b"slow", {504}), (b"cut", {200, 502})):
        visitor = door.visit()
        visitor.request("POST", PATH, body)
        answer = visitor.getresponse()
        assert answer.status in statuses
        if answer.status == 200:
            with pytest.raises((http.client.IncompleteRead, OSError)):
                answer.read()
        visitor.close()


def _head(length: int) -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


def test_a_superlink_that_is_not_there_yet(coordinator: Coordinator) -> None:
    with open_gate(coordinator, free_port()) as door, contextlib.closing(door.visit()) as visitor:
        visitor.request("POST", PATH, b"")
        assert visitor.getresponse().status == 503


def test_a_superlink_that_hangs_up_before_it_has_heard_all(coordinator: Coordinator) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*coordinator.pair("superlink"))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            accepted, _ = listening.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset
            with context.wrap_socket(accepted, server_side=True) as heard:
                heard.recv(1)

        thread = threading.Thread(target=hang_up)
        thread.start()
        port = listening.getsockname()[1]
        with open_gate(coordinator, port) as door, contextlib.closing(door.visit()) as visitor:
            visitor.connect()
            visitor.sock.sendall(_head(10_000))
            thread.join()
            received = b""
            while not received:  # the gate learns of it when it has more to pass on
                visitor.sock.sendall(b"a")
                visitor.sock.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    received = visitor.sock.recv(1000)
            assert received.startswith(b"HTTP/1.1 502"), received
        assert (502, "the coordinator does not take the request; try again") in door.refused
