"""A coordinator's folder, its certificates and its sites. Oracles: OpenSSL by Python's ssl, `ssh-keygen`."""

import re
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse, RegisterNodeRequest, UnregisterNodeRequest
from flwr.proto.node_pb2 import NodeInfo

from segformer3d.addresses import Address
from segformer3d.errors import ConfigurationError
from segformer3d.files import StorageError
from segformer3d.keys import fingerprint, hosts_of, make_key_pair, read_certificate, read_public_key
from server.control import Control, flower_key, register_sites
from server.coordinator import Brought, Coordinator, add_site, open_coordinator, remove_site, set_up, site_keys
from server.gate import GateLimits
from server.nginx import nginx_settings

HOSTS = ("fed.example.org", "localhost", "127.0.0.1", "::1")


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return set_up(tmp_path / "c", Address(HOSTS[0], 8443), Address("127.0.0.1", 8443), HOSTS, None)


def key_of(folder: Path) -> bytes:
    make_key_pair(folder / "site.key", folder / "site.pub")
    return (folder / "site.pub").read_bytes()


def handshake(coordinator: Coordinator, name: str, trusted: Path, server: str = "gate") -> dict[str, object]:
    """What a client that trusts this authority sees when it asks for this host; as strict as any Python is."""
    outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    outside.load_cert_chain(*coordinator.pair(server))
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            outside.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    context = ssl.create_default_context(cafile=trusted)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # by default from Python 3.13 on
    serving = threading.Thread(target=serve)
    serving.start()
    try:
        with context.wrap_socket(ours, server_hostname=name) as connection:
            return dict(connection.getpeercert() or {})
    finally:
        ours.close()
        serving.join()


@pytest.mark.parametrize("host", HOSTS)
def test_sites_believe_the_gate_under_each_of_its_names(coordinator: Coordinator, host: str) -> None:
    assert handshake(coordinator, host, coordinator.trusted)["notAfter"]
    assert set(hosts_of(read_certificate(coordinator.pair("gate")[0]))) == set(HOSTS)


def test_but_under_no_other(coordinator: Coordinator) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(coordinator, "evil.example.org", coordinator.trusted)


def test_renewing_keeps_the_authority(coordinator: Coordinator, tmp_path: Path) -> None:
    files = [*coordinator.pair("authority"), coordinator.trusted]
    before, gate = [path.read_bytes() for path in files], coordinator.pair("gate")[0].read_bytes()
    again = set_up(coordinator.folder, Address("new.example.org", 9), Address("0.0.0.0", 9), ["new.example.org"], None)
    assert [path.read_bytes() for path in files] == before
    assert again.pair("gate")[0].read_bytes() != gate
    assert handshake(again, "new.example.org", coordinator.trusted)


def test_an_own_certificate_is_brought(coordinator: Coordinator, tmp_path: Path) -> None:
    theirs = set_up(tmp_path / "other", Address("a", 1), Address("a", 1), ["hospital.example.org"], None)
    brought = Brought(*theirs.pair("gate"), theirs.pair("authority")[0])
    ours = set_up(coordinator.folder, coordinator.address, coordinator.listen, ["ignored"], brought)
    assert handshake(ours, "hospital.example.org", ours.trusted)
    assert read_certificate(ours.pair("superlink")[0]).issuer == read_certificate(ours.pair("authority")[0]).subject


def test_private_keys_are_for_their_owner_only(coordinator: Coordinator, tmp_path: Path) -> None:
    make_key_pair(tmp_path / "site.key", tmp_path / "site.pub")
    keys = [*coordinator.folder.glob("*.key"), tmp_path / "site.key"]
    assert len(keys) == 4
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
    assert stat.S_IMODE(coordinator.state.stat().st_mode) == 0o700


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    key_of(tmp_path)
    before = (tmp_path / "site.key").read_bytes()
    with pytest.raises(StorageError):
        key_of(tmp_path)
    assert (tmp_path / "site.key").read_bytes() == before


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    public = key_of(tmp_path)
    shown = subprocess.run(["ssh-keygen", "-lf", tmp_path / "site.pub"], capture_output=True, text=True, check=True)
    assert fingerprint(read_public_key(public, "x")) == shown.stdout.split()[1]


def test_sites_come_and_go(coordinator: Coordinator, tmp_path: Path) -> None:
    first = key_of(tmp_path)
    assert add_site(coordinator, "north", first, "x").startswith("SHA256:")
    add_site(coordinator, "north", first, "x")
    with pytest.raises(ConfigurationError, match="this key is that of site north"):
        add_site(coordinator, "south", first, "x")
    (tmp_path / "second").mkdir()
    with pytest.raises(ConfigurationError, match="remove-site north"):
        add_site(coordinator, "north", key_of(tmp_path / "second"), "x")
    assert set(site_keys(coordinator)) == {"north"}
    remove_site(coordinator, "north")
    assert not site_keys(coordinator)
    with pytest.raises(ConfigurationError, match="there is no site north"):
        remove_site(coordinator, "north")


@pytest.mark.parametrize("name", ["", "../north", "a/b", "a" * 41, "north\n", ".hidden"])
def test_names_lead_nowhere(coordinator: Coordinator, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a site's name takes"):
        add_site(coordinator, name, key_of(tmp_path), "x")


SOMEWHERE = Coordinator(Path("somewhere"), Address("a", 1), Address("a", 1))
NO_RUNS = ("", "..", "../a", "/etc", "a/../../b", "run-1/../../gate.key", "a/", "a\\b", "a\n", "a\0", "a" * 65, "ä")


@pytest.mark.parametrize("name", NO_RUNS)
def test_a_runs_name_leads_nowhere(name: str) -> None:
    with pytest.raises(ConfigurationError, match="a run's name takes"):
        SOMEWHERE.run_folder(name)


@pytest.mark.parametrize("name", ["a", "2026-01-31_first", "a" * 64])
def test_a_run_has_a_folder_of_its_name(name: str) -> None:
    assert SOMEWHERE.run_folder(name) == SOMEWHERE.folder / "runs" / name


class SuperLink:
    """The part of Flower's client that registering needs; who is unregistered stays in the list, and is called so."""

    def __init__(self) -> None:
        self.nodes: list[NodeInfo] = []

    def ListNodes(self, _: ListNodesRequest) -> ListNodesResponse:
        return ListNodesResponse(nodes_info=self.nodes)

    def RegisterNode(self, request: RegisterNodeRequest) -> None:
        number = len(self.nodes) + 1
        told = {"name": request.name, "public_key": request.public_key}
        self.nodes.append(NodeInfo(node_id=number, status="registered", **told))

    def UnregisterNode(self, request: UnregisterNodeRequest) -> None:
        self.nodes[request.node_id - 1].status = "unregistered"

    def open_to(self) -> list[tuple[str, bytes]]:
        return [(node.name, node.public_key) for node in self.nodes if node.status != "unregistered"]


def test_superlink_is_open_to_the_keys_in_the_folder_and_to_no_other(coordinator: Coordinator, tmp_path: Path) -> None:
    superlink, keys = SuperLink(), {}
    for name in ("north", "south", "renewed"):
        (tmp_path / name).mkdir()
        keys[name] = key_of(tmp_path / name)

    def registered() -> list[tuple[str, bytes]]:
        register_sites(Control(superlink), coordinator)  # type: ignore[arg-type]
        return superlink.open_to()

    north, south, renewed = (flower_key(key) for key in keys.values())
    add_site(coordinator, "north", keys["north"], "x")
    add_site(coordinator, "south", keys["south"], "x")
    for _ in range(2):
        assert registered() == [("north", north), ("south", south)]
    remove_site(coordinator, "north")
    add_site(coordinator, "north", keys["renewed"], "x")
    assert registered() == [("south", south), ("north", renewed)]
    remove_site(coordinator, "south")
    assert registered() == [("north", renewed)]


def test_nginx_passes_on_to_superlink_alone(coordinator: Coordinator, tmp_path: Path) -> None:
    """With what nginx is set to trust and to ask for, OpenSSL believes SuperLink, and no authority but its own."""
    written = nginx_settings(coordinator, GateLimits())
    directives = re.findall(r"^ *(proxy_\w+) +(.+);$", written, re.MULTILINE)
    chosen = dict(directives)
    assert len(chosen) == len(directives), "nginx refuses a directive that is there twice"
    assert chosen["proxy_pass"] == "https://127.0.0.1:8000"
    assert chosen["proxy_ssl_verify"] == "on"
    name, trusted = chosen["proxy_ssl_name"], Path(chosen["proxy_ssl_trusted_certificate"])
    assert handshake(coordinator, name, trusted, "superlink")
    other = set_up(tmp_path / "other", coordinator.address, coordinator.listen, HOSTS, None)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(other, name, trusted, "superlink")


def test_other_keys_are_refused(coordinator: Coordinator) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    edwards = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    for text in (b"", b"hello", other, edwards, b"ecdsa-sha2-nistp384 AAAA"):
        with pytest.raises(ConfigurationError, match="site init"):
            add_site(coordinator, "north", text, "KEY")


def test_a_folder_is_read_strictly(coordinator: Coordinator, tmp_path: Path) -> None:
    assert open_coordinator(coordinator.folder).address == Address(HOSTS[0], 8443)
    with pytest.raises(ConfigurationError, match="segfed server init"):
        open_coordinator(tmp_path)
    settings = coordinator.folder / "server.toml"
    whole = settings.read_text()
    for text, told in (
        ("x = ", "TOML"),
        ("", "lacks"),
        (whole + "port = 3\n", "'port'"),
        ('address = 3\nlisten = ""', "text"),
    ):
        settings.write_text(text)
        with pytest.raises(ConfigurationError, match=told):
            open_coordinator(coordinator.folder)
