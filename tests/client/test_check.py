"""`segfed site check` against servers that are not as they should be. Real sockets, TLS and files."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client import check
from client.check import FailedChecksError, Finding, check_and_print, check_site
from client.init import init_and_print
from client.names import CONTRACT_VERSION
from client.site_file import read_site_file
from segformer3d import keys
from segformer3d.addresses import free_port
from segformer3d.keys import issue_certificate, make_authority

Authority = tuple[Path, Path]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    make_authority(folder / "a.crt", folder / "a.key")
    return folder / "a.crt", folder / "a.key"


@contextmanager
def coordinator(
    folder: Path,
    authority: Authority,
    *,
    host: str = "localhost",
    contract: str | None = str(CONTRACT_VERSION),
    ahead_s: float = 0,
    status: int = 412,
) -> Iterator[int]:
    """Something that answers like a gate, with the time of its clock, and lets nobody in."""

    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            self.send_error(412)

        def end_headers(self) -> None:
            if contract is not None:
                self.send_header("segfed-contract", contract)
            super().end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)

        def log_message(self, *_: object) -> None:
            pass

    issue_certificate(folder / "g.crt", folder / "g.key", [host], *authority)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "g.crt", folder / "g.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def make_site(tmp_path: Path, shared: Path, authority: Authority) -> Callable[..., Path]:
    """A site on ten real cases whose coordinator is at this port of localhost."""

    def make(port: int, more: str = "") -> Path:
        folder = tmp_path / "site"
        init_and_print(str(folder), "north", str(_ten_cases(tmp_path / "data", shared)), f"localhost:{port}")
        (folder / "coordinator.crt").write_bytes(authority[0].read_bytes())
        settings = folder / "site.toml"
        settings.write_text(settings.read_text().replace('"coordinator.crt"', f'"coordinator.crt"\n{more}'))
        return folder

    return make


def _ten_cases(folder: Path, shared: Path) -> Path:
    source = shared / "data" / "hippocampus"
    for kind, files in (("images", "imagesTr"), ("labels", "labelsTr")):
        (folder / kind).mkdir(parents=True)
        for path in sorted((source / files).glob("*.nii.gz"))[:10]:
            (folder / kind / path.name).symlink_to(path)
    return folder


def found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    """The findings by name; the data are looked at in one test only, which takes its time."""
    monkeypatch.setattr(check, "_check_data", lambda site: "left out")
    return {finding.what: finding for finding in check_site(read_site_file(folder))}


MakeSite = Callable[..., Path]


def test_what_passes_before_anybody_is_asked(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = found(make_site(free_port()), monkeypatch)
    assert [what for what, finding in findings.items() if finding.passed] == [
        "key", "data", "device", "disk", "privacy ledger", "certificate of the coordinator",
    ]  # fmt: skip
    way = findings["way to the coordinator"]
    assert "cannot be reached (Connection refused)" in way.found
    assert "have the firewall allow outbound TCP" in way.remedy


def test_a_key_that_others_can_read(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_site(free_port())
    (folder / "site.key").chmod(0o644)
    assert found(folder, monkeypatch)["key"].remedy == f"chmod 600 {folder / 'site.key'}"


def test_what_a_site_lacks_is_said_with_its_remedy(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_site(free_port())
    (folder / "site.pub").unlink()
    (folder / "coordinator.crt").unlink()
    site = read_site_file(folder).site
    site.ledger_file.parent.mkdir(parents=True, exist_ok=True)
    site.ledger_file.write_text("no ledger\n")
    monkeypatch.setattr(check, "LEAST_SPACE", 2**62)
    findings = found(folder, monkeypatch)
    key, certificate = findings["key"], findings["certificate of the coordinator"]
    assert (key.passed, key.found, key.remedy) == (False, "there is none", f"segfed site init {folder}")
    assert (certificate.passed, certificate.remedy) == (False, "put the coordinator's coordinator.crt there")
    assert not findings["disk"].passed
    assert f"free for {site.work}" in findings["disk"].found
    assert not findings["privacy ledger"].passed
    assert str(site.ledger_file) in findings["privacy ledger"].found


def test_a_gate_that_does_not_know_the_key(
    make_site: MakeSite, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with coordinator(tmp_path, authority) as port:
        findings = found(make_site(port), monkeypatch)
    assert findings["TLS"].passed
    assert findings["version"].passed
    assert findings["clock"].passed
    assert findings["standing at the coordinator"].found == "this site's key is not let in"


@pytest.mark.parametrize(("ahead_s", "passes"), [(-600, False), (-60, False), (60, True), (200, True), (600, False)])
def test_a_clock_that_is_off(
    make_site: MakeSite,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
    passes: bool,
) -> None:
    """The coordinator takes signatures that are 5 s early or 305 s late."""
    with coordinator(tmp_path, authority, ahead_s=ahead_s) as port:
        clock = found(make_site(port), monkeypatch)["clock"]
    assert clock.passed == passes
    assert ("behind" if ahead_s > 0 else "ahead of") in clock.found


def test_another_host_name(
    make_site: MakeSite, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with coordinator(tmp_path, authority, host="fed.example.org") as port:
        tls = found(make_site(port), monkeypatch)["TLS"]
    assert not tls.passed
    assert "in the coordinator's certificate" in tls.remedy


def test_another_authority(
    make_site: MakeSite, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    make_authority(tmp_path / "other" / "a.crt", tmp_path / "other" / "a.key")
    with coordinator(tmp_path, (tmp_path / "other" / "a.crt", tmp_path / "other" / "a.key")) as port:
        tls = found(make_site(port), monkeypatch)["TLS"]
    assert not tls.passed
    assert "do not join before it fits" in tls.remedy


def test_an_expired_certificate(
    make_site: MakeSite, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CERTIFICATE_DAYS", -0.5)
    with coordinator(tmp_path, authority) as port:
        tls = found(make_site(port), monkeypatch)["TLS"]
    assert "expired" in tls.found
    assert "segfed server init" in tls.remedy


def test_something_else_that_speaks_tls(
    make_site: MakeSite, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with coordinator(tmp_path, authority, contract=None) as port:
        assert "no gate of segfed" in found(make_site(port), monkeypatch)["TLS"].found


def test_another_version_of_the_messages(
    make_site: MakeSite, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with coordinator(tmp_path, authority, contract="999") as port:
        version = found(make_site(port), monkeypatch)["version"]
    assert not version.passed
    told = f"the coordinator speaks version 999 of the messages, this site {CONTRACT_VERSION}"
    assert (version.found, version.remedy) == (told, "install the same segfed at both ends")


def test_through_the_hospitals_proxy(
    make_site: MakeSite, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with coordinator(tmp_path, authority) as port, proxy() as (proxy_port, asked):
        findings = found(make_site(port, f'proxy = "http://127.0.0.1:{proxy_port}"'), monkeypatch)
    assert f"through http://127.0.0.1:{proxy_port}" in findings["way to the coordinator"].found
    assert findings["TLS"].passed
    assert set(asked) == {f"CONNECT localhost:{port}"}


def test_data_for_a_task_of_ones_own_are_counted(make_site: MakeSite) -> None:
    folder = make_site(free_port())
    settings = folder / "site.toml"
    settings.write_text(settings.read_text().replace('# tasks = ["hippocampus"]', 'tasks = ["left-ventricle"]'))
    (data,) = [finding for finding in check_site(read_site_file(folder)) if finding.what == "data"]
    assert (data.passed, data.found) == (True, "10 cases, which are read when a run brings its task")


def test_the_command_says_in_one_line_what_failed(make_site: MakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_site(free_port())
    with pytest.raises(
        FailedChecksError, match="3 of 8 checks failed: data, way to the coordinator, TLS, version, clock"
    ):
        check_and_print(str(folder))
    assert "[limits]" in capsys.readouterr().out
    settings = folder / "site.toml"
    settings.write_text(settings.read_text().replace("# tasks", "tasks"))
    with pytest.raises(FailedChecksError, match="2 of 8 checks failed"):
        check_and_print(str(folder))
    assert "task hippocampus, 10 used" in capsys.readouterr().out


@contextmanager
def proxy() -> Iterator[tuple[int, list[str]]]:
    """An HTTP proxy that knows CONNECT and nothing else."""
    listener, asked, stop = socket.create_server(("127.0.0.1", 0)), [], threading.Event()
    listener.settimeout(0.1)
    threads: list[threading.Thread] = []

    def serve() -> None:
        while not stop.is_set():
            try:
                visitor, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=tunnel, args=(visitor,)))
            threads[-1].start()

    def tunnel(visitor: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += visitor.recv(1000)
        method, target, _ = head.decode().split("\r\n")[0].split(" ")
        asked.append(f"{method} {target}")
        host, port = target.split(":")
        with visitor, socket.create_connection((host, int(port)), 10) as there:
            visitor.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(there, visitor))
            back.start()
            pump(visitor, there)
            back.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        stop.set()
        server.join()
        listener.close()
        for thread in threads:
            thread.join(timeout=10)
