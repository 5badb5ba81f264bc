"""`site.toml`: everything that the operator of a site decides, in one file beside the site's key."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from client.limits import SiteLimits
from client.site import LEDGER, SiteSettings
from segformer3d.addresses import Address
from segformer3d.errors import ConfigurationError
from segformer3d.files import write_text
from segformer3d.toml_file import read_toml

SITE_FILE, KEY_FILE, PUBLIC_KEY_FILE, CERTIFICATE_FILE = "site.toml", "site.key", "site.pub", "coordinator.crt"
SITE = "SEGFED_SITE"  # names the folder to the programs that `site join` starts
_SITE = ("name", "data", "work", "device", "threads", "workers", "leave_out_published", "quarantine")
_PRIVACY = ("ledger", "patients", "patient_pattern")
_COORDINATOR = ("address", "certificate", "proxy")


@dataclass(frozen=True)
class SiteFile:
    """A site file that has been read.

    Attributes:
        folder: where it lies, and where its relative paths begin.
        site: name, data, device and limits.
        coordinator: the public address of the coordinator.
        certificate: of the authority that the coordinator's certificate must come from, as PEM.
        proxy: "http://HOST:PORT" of the hospital's proxy for outbound connections, or None.
    """

    folder: Path
    site: SiteSettings
    coordinator: Address
    certificate: Path
    proxy: str | None = None

    @property
    def key(self) -> Path:
        """The private key; it never leaves the site."""
        return self.folder / KEY_FILE


def read_site_file(folder: Path) -> SiteFile:
    """The site file in a folder.

    Raises:
        ConfigurationError: it is missing, no TOML, or a value breaks its rule.
    """
    path = folder / SITE_FILE
    values = read_toml(path, f"make a site with: segfed site init {folder}")
    try:
        return _parse(folder.resolve(), values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def write_site_file(folder: Path, name: str, data: Path, coordinator: Address) -> Path:
    """Write the site file of a new site, with every setting explained.

    Raises:
        StorageError: it cannot be written.
    """
    text = _TEMPLATE.format(
        name=name, data=_quoted(str(data)), address=coordinator, certificate=CERTIFICATE_FILE, ledger=LEDGER
    )
    write_text(folder / SITE_FILE, text)
    return folder / SITE_FILE


_TEMPLATE = """\
# One site of a segfed federation. Relative paths begin at this file's folder.
# See docs/operate-a-site.md; after a change run: segfed site check

name = "{name}"           # what the coordinator sees; it must be the name that it registered
data = {data}             # labelled cases, in any layout of docs/data.md
work = "work"             # cache, optimizer states, logs
device = "auto"           # auto, cpu, cuda or cuda:N
# threads = 8             # of one computation on the CPU (default: all cores)
# workers = 0             # processes that read cases and cut patches
# quarantine = "quarantine.csv"   # cases that are not used, as segfed data check lists them
# leave_out_published = true   # use no case that a published protocol holds out

[coordinator]
address = "{address}"
certificate = "{certificate}"      # from the coordinator, by a way that you trust
# proxy = "http://proxy.hospital.example:3128"

[limits]                  # the most that this site does, whatever the coordinator asks
smallest_cohort = 1       # with fewer training cases it takes no part
# tasks = ["hippocampus"] # takes part in these only
# most_rounds = 200
# most_local_epochs = 5
# private_only = true     # takes part in runs with differential privacy only
# run_epsilon = 4.0       # what one private run may cost each patient: more noise is added where it would cost more
# epsilon = 8.0           # what all private runs together may cost each patient; then this site stops
# delta = 1e-5            # the chance that this promise may fail with

[privacy]                 # see docs/privacy.md
ledger = "{ledger}"      # what private runs have cost the patients; keep it as long as you keep the data
# patients = 40           # publish that this many patients, or more, are here: less noise for their number
# patient_pattern = "patient[0-9]+"   # what of a case's name is the patient, where patients have several cases
"""


def _parse(folder: Path, values: Mapping[str, Any]) -> SiteFile:
    _check_names(values, (*_SITE, "coordinator", "limits", "privacy"), "the site file")
    coordinator, limits, privacy = (_table(values, name) for name in ("coordinator", "limits", "privacy"))
    _check_names(coordinator, _COORDINATOR, "[coordinator]")
    _check_names(limits, tuple(item.name for item in fields(SiteLimits)), "[limits]")
    _check_names(privacy, _PRIVACY, "[privacy]")
    for name in ("name", "data"):
        _text(values, name, "the site file")
    for name in ("address", "certificate"):
        _text(coordinator, name, "[coordinator]")
    if isinstance(limits.get("tasks"), list):
        limits = {**limits, "tasks": tuple(limits["tasks"])}
    plain = {name: values[name] for name in _SITE if name in values}
    paths = {"data": folder / values["data"], "work": folder / str(values.get("work", "work"))}
    paths["ledger"] = folder / str(privacy.get("ledger", LEDGER))
    if "quarantine" in values:
        paths["quarantine"] = folder / _text(values, "quarantine", "the site file")
    own = {name: privacy[name] for name in ("patients", "patient_pattern") if name in privacy}
    site = SiteSettings(**{**plain, **paths, **own}, limits=SiteLimits(**limits))
    proxy = _text(coordinator, "proxy", "[coordinator]") if "proxy" in coordinator else None
    if proxy is not None and not proxy.startswith("http://"):
        raise ConfigurationError(f'proxy must be "http://HOST:PORT", got {proxy!r}')
    address = Address.parse(coordinator["address"])
    return SiteFile(folder, site, address, folder / coordinator["certificate"], proxy)


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{name} must be a table: [{name}]")
    return table


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where} needs a text {name!r}, got {value!r}")
    return value


def _check_names(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in sorted(set(values) - set(known)):
        raise ConfigurationError(f"{where} has an unknown setting {name!r}; known are {', '.join(known)}")


def _quoted(text: str) -> str:
    """A text as a TOML string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
