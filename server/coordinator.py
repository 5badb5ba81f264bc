"""The coordinator's folder: who it is, who may join, and the runs.

server.toml           settings, for people to edit
nginx.conf            for those who prefer nginx to the gate
authority.crt, .key   the coordinator's own certificate authority
gate.crt, .key        what the outside sees; from the authority, or brought
superlink.crt, .key   for loopback only; always from the authority
coordinator.crt       what sites need to trust the gate: to be handed out
sites/NAME.pub        the public keys of the sites that may join
runs/RUN/             settings, states, records and models of each run
state/                SuperLink's database, Flower's own files, what runs now
logs/                 of every process
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.names import RUN_NAME, SITE_NAME
from segformer3d.addresses import Address, check_host
from segformer3d.errors import ConfigurationError
from segformer3d.files import storage_errors, write_bytes, write_secret, write_text
from segformer3d.keys import (
    fingerprint,
    issue_certificate,
    make_authority,
    public_text,
    read_certificate,
    read_public_key,
)
from segformer3d.toml_file import read_toml

COORDINATOR = "SEGFED_COORDINATOR"  # names the folder to the programs that `server start` starts
LOOPBACK_NAMES = ("127.0.0.1", "localhost")
_SETTINGS, _PORT = ("address", "listen"), "superlink_port"


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's folder that has been set up.

    Attributes:
        folder: where it is.
        address: what sites are told to connect to.
        listen: where the gate listens.
        superlink_port: where SuperLink listens on the loopback interface; None for a free port at every start.
    """

    folder: Path
    address: Address
    listen: Address
    superlink_port: int | None = None

    @property
    def sites(self) -> Path:
        """Public keys, NAME.pub."""
        return self.folder / "sites"

    @property
    def runs(self) -> Path:
        """Run folders."""
        return self.folder / "runs"

    @property
    def state(self) -> Path:
        """What programs write for themselves and each other."""
        return self.folder / "state"

    @property
    def logs(self) -> Path:
        """Logs."""
        return self.folder / "logs"

    @property
    def trusted(self) -> Path:
        """The certificate that sites need."""
        return self.folder / "coordinator.crt"

    def pair(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of the authority, the gate or the superlink."""
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def run_folder(self, run: str) -> Path:
        """Where a run is kept.

        Raises:
            ConfigurationError: it is no name of a run.
        """
        if not RUN_NAME.fullmatch(run):
            raise ConfigurationError(f"a run's name takes 1 to 64 letters, digits, - and _, got {run!r}")
        return self.runs / run


@dataclass(frozen=True)
class Brought:
    """A certificate, its key and its authority, as PEM files, that the coordinator's institution has issued."""

    certificate: Path
    key: Path
    authority: Path


def set_up(
    folder: Path, address: Address, listen: Address, hosts: Sequence[str], brought: Brought | None
) -> Coordinator:
    """Make a coordinator's folder, or renew the certificates of one. An authority that is there is kept.

    Raises:
        ConfigurationError: a host is none, or what was brought cannot be read.
        StorageError: the folder cannot be written.
    """
    for host in hosts:
        check_host(host)
    coordinator = Coordinator(folder, address, listen)
    authority, authority_key = coordinator.pair("authority")
    if not authority.exists():
        make_authority(authority, authority_key)
    issue_certificate(*coordinator.pair("superlink"), LOOPBACK_NAMES, authority, authority_key)
    if brought is None:
        issue_certificate(*coordinator.pair("gate"), hosts, authority, authority_key)
        write_bytes(coordinator.trusted, authority.read_bytes())
    else:
        _bring(coordinator, brought)
    for place in (coordinator.sites, coordinator.runs, coordinator.state, coordinator.logs):
        with storage_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o700)
    write_text(folder / "server.toml", _TEMPLATE.format(address=address, listen=listen))
    return coordinator


def open_coordinator(folder: Path) -> Coordinator:
    """The coordinator in a folder.

    Raises:
        ConfigurationError: there is none, or its settings break a rule.
    """
    path = folder / "server.toml"
    values = read_toml(path, f"set up a coordinator with: segfed server init {folder} --host NAME")
    _check_settings(path, values)
    address, listen = (Address.parse(values[name]) for name in _SETTINGS)
    return Coordinator(folder.resolve(), address, listen, values.get(_PORT))


def add_site(coordinator: Coordinator, name: str, key: bytes, where: str) -> str:
    """Let a site join; returns its key's fingerprint.

    Raises:
        ConfigurationError: the name or the key is none, or either belongs to another site.
        StorageError: it cannot be written down.
    """
    if not SITE_NAME.fullmatch(name):
        raise ConfigurationError(f"a site's name takes 1 to 40 letters, digits, - and _, got {name!r}")
    public = read_public_key(key, where)
    for other, text in site_keys(coordinator).items():
        if text == public_text(public) and other != name:
            raise ConfigurationError(f"this key is that of site {other}; each site makes its own")
        if other == name and text != public_text(public):
            raise ConfigurationError(
                f"site {name} has another key; if it made a new one, first: segfed server remove-site {name}"
            )
    write_bytes(coordinator.sites / f"{name}.pub", public_text(public))
    return fingerprint(public)


def remove_site(coordinator: Coordinator, name: str) -> None:
    """Let a site join no more.

    Raises:
        ConfigurationError: there is no such site.
    """
    known = sorted(site_keys(coordinator))
    if name not in known:
        raise ConfigurationError(f"there is no site {name}; known are {', '.join(known) or 'none'}")
    path = coordinator.sites / f"{name}.pub"
    with storage_errors(path):
        path.unlink(missing_ok=True)


def site_keys(coordinator: Coordinator) -> dict[str, bytes]:
    """The public key of every site that may join, by its name."""
    return {path.stem: path.read_bytes() for path in sorted(coordinator.sites.glob("*.pub"))}


_TEMPLATE = """\
# A segfed coordinator. After a change: stop and start it again.
address = "{address}"   # what sites connect to; its host is in the gate's certificate
listen = "{listen}"     # where the gate listens
# superlink_port = 8000         # a fixed port on the loopback interface, for nginx in place of the gate: see nginx.conf
"""


def _check_settings(path: Path, values: Mapping[str, Any]) -> None:
    for name in sorted((set(values) - {_PORT}) ^ set(_SETTINGS)):
        raise ConfigurationError(f"{path} {'lacks' if name in _SETTINGS else 'has an unknown setting'} {name!r}")
    for name in _SETTINGS:
        if not isinstance(values[name], str):
            raise ConfigurationError(f"{name} in {path} must be a text, got {values[name]!r}")
    port = values.get(_PORT, 1)
    if type(port) is not int or not 1 <= port <= 65535:
        raise ConfigurationError(f"{_PORT} in {path} must be a whole number in [1, 65535], got {port!r}")


def _bring(coordinator: Coordinator, brought: Brought) -> None:
    certificate, key = coordinator.pair("gate")
    read_certificate(brought.certificate)
    read_certificate(brought.authority)
    with storage_errors(certificate):
        shutil.copyfile(brought.certificate, certificate)
        key.unlink(missing_ok=True)
        write_secret(key, brought.key.read_bytes())
        shutil.copyfile(brought.authority, coordinator.trusted)
