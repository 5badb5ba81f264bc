"""`segfed site check`: everything that must hold before a site can join, as a table of what passes, what fails and why.

Checks go from the site outwards: its files, its data, its machine, the way to the coordinator, the coordinator's
certificate, the clock, and at last whether the coordinator knows the site's key.
"""

import http.client
import socket
import ssl
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.failures import SAME_VERSION
from client.fleet import Standing, standing_of
from client.limits import NO_LIMIT
from client.names import CONTRACT_HEADER, CONTRACT_VERSION
from client.privacy.ledger import read_ledger
from client.running import is_let_in, read_running
from client.site_file import PUBLIC_KEY_FILE, SiteFile, read_site_file
from segformer3d.cases import find_cases
from segformer3d.dataset import prepare
from segformer3d.errors import ConfigurationError, DataError, SegfedError
from segformer3d.files import free_bytes
from segformer3d.keys import fingerprint, read_certificate, read_public_key
from segformer3d.tasks import TASKS, Task, task_of_folder
from segformer3d.terminal import make_console, plain_bytes

TIMEOUT_S = 15.0
LEAST_SPACE = 2 * 2**30  # bytes
# Flower takes signatures that are 5 s early at most and 305 s late at most.
EARLIEST, LATEST = timedelta(seconds=-5), timedelta(seconds=305)
EXPIRES_SOON = timedelta(days=30)


@dataclass(frozen=True)
class Finding:
    """One line of the table. `remedy` is empty for what passes."""

    what: str
    passed: bool
    found: str
    remedy: str = ""


class FailedChecksError(SegfedError):
    """At least one check has failed."""


def check_and_print(folder: str) -> None:
    """Check a site and print the table.

    Raises:
        ConfigurationError: the site file cannot be read at all.
        FailedChecksError: a check has failed.
    """
    site, console = read_site_file(Path(folder)), make_console()
    findings = []
    with console.status("checking"):
        for finding in check_site(site):
            findings.append(finding)
    _print(console, site, findings)
    failed = [finding.what for finding in findings if not finding.passed]
    if failed:
        raise FailedChecksError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")


def check_site(site: SiteFile) -> Iterator[Finding]:
    """All checks; those that need what has failed before are left out."""
    yield _guarded("key", lambda: _check_key(site))
    yield _guarded("data", lambda: _check_data(site))
    yield _guarded("device", lambda: str(site.site.torch_device()))
    yield _guarded("disk", lambda: _check_disk(site))
    yield _guarded("privacy ledger", lambda: _check_ledger(site))
    yield _guarded("certificate of the coordinator", lambda: _check_certificate(site))
    reached = _guarded("way to the coordinator", lambda: _check_way(site))
    yield reached
    if not reached.passed:
        yield Finding(
            "TLS, version, clock, standing", False, "not checked: the coordinator was not reached", "see above"
        )
        return
    answered, headers = _check_tls(site)
    yield answered
    if not answered.passed:
        yield Finding("version, clock, standing", False, "not checked: no trusted answer", "see above")
        return
    yield _check_version(headers[CONTRACT_HEADER])
    yield _check_clock(headers["date"])
    yield _check_standing(site)


def _guarded(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except _Complaint as complaint:
        return Finding(what, False, complaint.found, complaint.remedy)
    except SegfedError as error:
        return Finding(what, False, str(error), "see the message")


class _Complaint(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


def _check_key(site: SiteFile) -> str:
    public = site.folder / PUBLIC_KEY_FILE
    if not site.key.exists() or not public.exists():
        raise _Complaint("there is none", f"segfed site init {site.folder}")
    mode = stat.S_IMODE(site.key.stat().st_mode)
    if mode & 0o077:
        raise _Complaint(f"others can read it (mode {mode:04o})", f"chmod 600 {site.key}")
    return fingerprint(read_public_key(public.read_bytes(), str(public)))


def _check_data(site: SiteFile) -> str:
    task = _task_of(site)
    if task is None:
        return f"{len(find_cases(site.site.data))} cases, which are read when a run brings its task"
    data = prepare(
        site.site.data,
        task,
        site.site.work / "cache",
        workers=site.site.workers,
        leave_out_published=site.site.leave_out_published,
        quarantine=site.site.quarantine,
        patient_pattern=site.site.patient_pattern,
    )
    aside = f"; set aside: {', '.join(f'{item.case} ({item.reason})' for item in data.set_aside)}"
    found = f"task {task.name}, {data.describe()}{aside if data.set_aside else ''}"
    if len(data.train) < site.site.limits.smallest_cohort:
        raise _Complaint(found, "add cases, or insist on a smaller cohort in site.toml")
    return found


def _task_of(site: SiteFile) -> Task | None:
    """What the data are for: as the folder says, or the one task that the site takes part in; None for an own task."""
    named = site.site.limits.tasks
    if len(named) == 1:
        return TASKS.get(named[0])
    try:
        return task_of_folder(site.site.data)
    except DataError as error:
        remedy = 'mend the folder, or name its task in [limits] of site.toml, as in tasks = ["hippocampus"]'
        raise _Complaint(str(error).partition(";")[0], remedy) from error


def _check_disk(site: SiteFile) -> str:
    free = free_bytes(site.site.work)
    if free < LEAST_SPACE:
        raise _Complaint(f"{plain_bytes(free)} free for {site.site.work}", f"free {plain_bytes(LEAST_SPACE)}")
    return f"{plain_bytes(free)} free"


def _check_ledger(site: SiteFile) -> str:
    """Whether it hangs together, and what it says."""
    path, limits = site.site.ledger_file, site.site.limits
    if not path.exists() and not path.with_name(path.name + ".head").exists():
        return "none yet: no private run was taken part in"
    spent = read_ledger(path).contents.spent(limits.delta)
    limit = "no limit is set" if limits.epsilon == NO_LIMIT else f"the limit is {limits.epsilon:g}"
    return f"its patients have spent epsilon {spent:.3f} at delta {limits.delta:g}; {limit}"


def _check_certificate(site: SiteFile) -> str:
    try:
        certificate = read_certificate(site.certificate)
    except ConfigurationError as error:
        raise _Complaint(str(error), "put the coordinator's coordinator.crt there") from error
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left < timedelta(0):
        raise _Complaint(f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}", "ask the coordinator for a new one")
    return f"valid until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _check_way(site: SiteFile) -> str:
    """A TCP connection, through the proxy if there is one."""
    try:
        with closing(_connect(site)):
            return f"{site.coordinator}{f' through {site.proxy}' if site.proxy else ', directly'}"
    except socket.gaierror as error:
        host = urlsplit(site.proxy).hostname if site.proxy else site.coordinator.host
        raise _Complaint(f"the name {host} is not known here", "check its spelling and this machine's DNS") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        remedy = f"have the firewall allow outbound TCP to {site.coordinator}"
        if site.proxy:
            remedy = f"check the proxy in site.toml, and that it allows CONNECT to {site.coordinator}"
        raise _Complaint(f"{site.coordinator} cannot be reached ({reason})", remedy) from error


def _connect(site: SiteFile) -> socket.socket:
    if site.proxy is None:
        return socket.create_connection((site.coordinator.host, site.coordinator.port), TIMEOUT_S)
    proxy = urlsplit(site.proxy)
    connection = http.client.HTTPConnection(proxy.hostname or "", proxy.port or 3128, timeout=TIMEOUT_S)
    connection.set_tunnel(site.coordinator.host, site.coordinator.port)
    connection.connect()
    return connection.sock


def _check_tls(site: SiteFile) -> tuple[Finding, Mapping[str, str]]:
    """The certificate and the host name, and that a gate of segfed answers; what it says of itself comes with it."""
    what, host = "TLS", site.coordinator.host
    try:
        context = ssl.create_default_context(cafile=site.certificate)
        with context.wrap_socket(_connect(site), server_hostname=host) as connection:
            expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(connection.getpeercert()["notAfter"])), UTC)  # type: ignore[index]
            connection.sendall(b"GET / HTTP/1.1\r\nhost: segfed\r\nconnection: close\r\n\r\n")
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            headers = {name: answer.headers.get(name, "") for name in (CONTRACT_HEADER, "date")}
    except ssl.SSLCertVerificationError as error:
        return Finding(what, False, error.verify_message, _tls_remedy(error.verify_message)), {}
    except (OSError, http.client.HTTPException) as error:
        return Finding(what, False, f"no TLS there ({type(error).__name__})", "check host and port in site.toml"), {}
    if not headers[CONTRACT_HEADER]:
        return Finding(what, False, "something answers that is no gate of segfed", "check the address in site.toml"), {}
    soon = expires - datetime.now(UTC) < EXPIRES_SOON
    note = " (soon: remind the coordinator)" if soon else ""
    return Finding(what, True, f"{host} is who it says it is, until {expires:%Y-%m-%d}{note}"), headers


def _tls_remedy(message: str) -> str:
    if "expired" in message:
        return "the coordinator renews it with `segfed server init`; is this machine's clock right?"
    if "mismatch" in message or "match" in message:
        return "use the host name that is in the coordinator's certificate, or have it issued for this one as well"
    return "ask the coordinator for its coordinator.crt again, by a way that you trust; do not join before it fits"


def _check_version(spoken: str) -> Finding:
    """Whether both ends speak the same version of the message contract."""
    if spoken != str(CONTRACT_VERSION):
        told = f"the coordinator speaks version {spoken} of the messages, this site {CONTRACT_VERSION}"
        return Finding("version", False, told, SAME_VERSION)
    return Finding("version", True, f"both ends speak version {CONTRACT_VERSION} of the messages")


def _check_clock(date: str) -> Finding:
    ahead = datetime.now(UTC) - parsedate_to_datetime(date)
    seconds = ahead.total_seconds()
    found = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the coordinator's"
    # A site whose clock is ahead signs early.
    if not EARLIEST < -ahead < LATEST:
        return Finding("clock", False, found, "set it by NTP; more than 5 s ahead or 300 s behind is refused")
    return Finding("clock", True, found)


def _check_standing(site: SiteFile) -> Finding:
    what = "standing at the coordinator"
    if read_running(site.site.work) is not None and is_let_in(site.site.work):
        return Finding(what, True, "this site takes part now; see segfed site status")
    standing = standing_of(site)
    if standing is Standing.REGISTERED:
        return Finding(what, True, "this site's key is registered")
    if standing is Standing.NOT_LET_IN:
        public, name = site.folder / PUBLIC_KEY_FILE, site.site.name
        remedy = f"send the coordinator {public} for {name}; if it was connected a minute ago, check again"
        return Finding(what, False, "this site's key is not let in", remedy)
    return Finding(what, False, "its answer is not understood", SAME_VERSION)


def _print(console: Console, site: SiteFile, findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    for header in ("check", "", "found", "what to do"):
        table.add_column(header, overflow="fold")
    for finding in findings:
        mark = "pass" if finding.passed else "FAIL"
        cells = (finding.what, mark, finding.found, finding.remedy)
        table.add_row(*map(Text, cells), style="" if finding.passed else "yellow")
    console.print(f"site {site.site.name}")
    console.print(table)
