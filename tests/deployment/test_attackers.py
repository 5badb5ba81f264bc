"""What strangers, broken sites and a hostile coordinator try. Everything is refused, and the federation goes on."""

import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode import node_auth_http_interceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from segformer3d.keys import make_authority
from server.coordinator import open_coordinator
from server.running import superlink_address

from .rig import Rig

ELSEWHERE = "127.0.0.2"  # another machine, as far as the gate can tell


@pytest.fixture(autouse=True)
def _the_federation_goes_on(rig: Rig) -> Iterator[None]:
    yield
    rig.wait("the sites", lambda: all(rig.is_connected(name) for name in rig.site_data))
    assert all(process.poll() is None for process in rig.processes.values())


def gate_log(rig: Rig) -> str:
    return (rig.coordinator / "logs" / "gate.log").read_text()


@contextmanager
def visit(rig: Rig) -> Iterator[http.client.HTTPSConnection]:
    context = ssl.create_default_context(cafile=rig.coordinator / "coordinator.crt")
    connection = http.client.HTTPSConnection(
        "127.0.0.1", rig.port, context=context, timeout=30, source_address=(ELSEWHERE, 0)
    )
    with closing(connection):
        yield connection


OUTSIDE = [
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/runtime/acquire-task",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "//v1/control/list-runs",
    "/V1/CONTROL/LIST-RUNS",
    "/v1/fleet/pull-messages?x=/v1/control/list-runs",
    "/docs",
    "/openapi.json",
    "/health",
    "/",
    "*",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_but_the_fleet_api_can_be_reached(rig: Rig, path: str) -> None:
    before = (rig.coordinator / "logs" / "superlink.log").read_text().count(ELSEWHERE)
    with visit(rig) as connection:
        body = ListRunsRequest().SerializeToString()
        connection.request("POST", path, body, {"content-type": PROTOBUF_MEDIA_TYPE})
        assert connection.getresponse().status == 404
    assert (rig.coordinator / "logs" / "superlink.log").read_text().count(ELSEWHERE) == before


def test_an_absolute_address_is_no_way_around(rig: Rig) -> None:
    with visit(rig) as connection:
        connection.request("POST", "http://127.0.0.1/v1/control/list-runs", b"")
        assert connection.getresponse().status == 404


def test_other_methods_are_refused(rig: Rig) -> None:
    for method in ("GET", "PUT", "CONNECT", "OPTIONS", "DELETE"):
        with visit(rig) as connection:
            connection.request(method, "/v1/fleet/pull-messages", b"")
            assert connection.getresponse().status == 405


def test_plain_http_gets_nothing(rig: Rig) -> None:
    with socket.create_connection(("127.0.0.1", rig.port), timeout=30, source_address=(ELSEWHERE, 0)) as plain:
        plain.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        assert b"HTTP" not in _read_all(plain)


def test_two_gigabytes_are_refused_before_they_are_sent(rig: Rig) -> None:
    with visit(rig) as connection:
        connection.putrequest("POST", "/v1/fleet/push-object")
        connection.putheader("content-length", str(2 * 2**30))
        connection.endheaders()
        assert connection.getresponse().status == 413


def test_a_body_of_unknown_length_is_refused(rig: Rig) -> None:
    with visit(rig) as connection:
        connection.request("POST", "/v1/fleet/push-object", iter([b"x"] * 10), {"transfer-encoding": "chunked"})
        assert connection.getresponse().status == 411


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 100,
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 10_000,
        b"GARBAGE\r\n\r\n",
    ],
    ids=["zeros", "two lengths", "a negative length", "endless headers", "garbage"],
)
def test_what_is_no_request_is_answered_with_an_error(rig: Rig, sent: bytes) -> None:
    with visit(rig) as connection:
        connection.connect()
        with suppress(OSError):  # the gate may have closed before all is sent
            connection.sock.sendall(sent)
        answer = _read_all(connection.sock)
        assert re.match(rb"HTTP/1.1 4\d\d ", answer) or not answer
    assert "no valid HTTP request" in gate_log(rig)


def test_a_truncated_message_does_nothing(rig: Rig) -> None:
    with visit(rig) as connection:
        connection.putrequest("POST", "/v1/fleet/pull-messages")
        connection.putheader("content-length", "1000")
        connection.endheaders()
        connection.send(b"x" * 10)
        connection.sock.shutdown(socket.SHUT_WR)
        assert not re.match(rb"HTTP/1.1 200", _read_all(connection.sock))


def test_a_thousand_half_open_connections_keep_nobody_out(rig: Rig) -> None:
    half_open = []
    try:
        for _ in range(1000):
            plain = socket.socket()
            plain.settimeout(5)
            plain.bind((ELSEWHERE, 0))
            half_open.append(plain)
            plain.connect(("127.0.0.1", rig.port))
        context = ssl.create_default_context(cafile=rig.coordinator / "coordinator.crt")
        site = http.client.HTTPSConnection("127.0.0.1", rig.port, context=context, timeout=20)
        with closing(site):
            site.request("POST", "/nowhere", b"")
            assert site.getresponse().status == 404
        assert "too many connections" in gate_log(rig)
    finally:
        for plain in half_open:
            plain.close()


def fleet(rig: Rig, key: ec.EllipticCurvePrivateKey | None) -> FleetHttpClient:
    certificate = (rig.coordinator / "coordinator.crt").read_bytes()
    signing = [] if key is None else [NodeAuthHttpInterceptor(key, key.public_key())]
    return FleetHttpClient.from_server_address(f"127.0.0.1:{rig.port}", False, certificate, signing)


def test_a_key_that_nobody_registered_gets_nowhere(rig: Rig) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    public = public_key_to_bytes(key.public_key())
    with fleet(rig, key) as stranger:
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            stranger.RegisterNode(RegisterNodeFleetRequest(public_key=public))
        with pytest.raises(httpx.HTTPStatusError, match="412"):
            stranger.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30))
        for node in _node_ids(rig):
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                stranger.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=30))


def test_who_signs_nothing_gets_nowhere(rig: Rig) -> None:
    with fleet(rig, None) as stranger:
        for node in [Node(node_id=number) for number in _node_ids(rig)]:
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                stranger.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=30))
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                stranger.PullMessages(PullMessagesRequest(node=node))


def test_superlink_itself_registers_nobody(rig: Rig) -> None:
    """Behind the gate, too, only the coordinator lets sites in."""
    coordinator = open_coordinator(rig.coordinator)
    key = ec.generate_private_key(ec.SECP384R1())
    request = RegisterNodeFleetRequest(public_key=public_key_to_bytes(key.public_key()))
    certificate = coordinator.pair("authority")[0].read_bytes()
    signing, before = [NodeAuthHttpInterceptor(key, key.public_key())], _node_ids(rig)
    with (
        FleetHttpClient.from_server_address(str(superlink_address(coordinator)), False, certificate, signing) as inside,
        pytest.raises(httpx.HTTPStatusError, match="412"),
    ):
        inside.RegisterNode(request)
    assert _node_ids(rig) == before


def test_an_old_signature_is_no_good(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered key's request, recorded ten minutes ago and sent again."""
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    key = load_ssh_private_key((rig.folder / "site-1" / "site.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    own = next(node for node, name in _node_ids(rig).items() if name == "site-1")
    request = SendNodeHeartbeatRequest(node=Node(node_id=own), heartbeat_interval=30)
    with fleet(rig, key) as site:
        assert site.SendNodeHeartbeat(request).success
        monkeypatch.setattr(node_auth_http_interceptor, "now", lambda: now() - timedelta(minutes=10))
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            site.SendNodeHeartbeat(request)


def test_a_site_does_not_talk_to_a_server_with_another_certificate(rig: Rig, tmp_path: Path) -> None:
    folder = rig.add_site("site-9", rig.site_data["site-1"])
    make_authority(folder / "coordinator.crt", tmp_path / "other.key")
    rig.start("site-9", "site", "join", folder)
    try:
        log = folder / "work" / "supernode.log"
        rig.wait("an error", lambda: log.exists() and "CERTIFICATE_VERIFY_FAILED" in log.read_text())
        assert not rig.is_connected("site-9")
    finally:
        rig.end("site-9")
        rig.do("server", "remove-site", "site-9", "--folder", rig.coordinator)


def _node_ids(rig: Rig) -> dict[int, str]:
    return {node.node: node.name for node in rig.nodes() or ()}


def _read_all(connection: socket.socket) -> bytes:
    received, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            data = connection.recv(65536)
        except OSError:
            break
        if not data:
            break
        received += data
    return received
