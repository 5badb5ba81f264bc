"""What `segfed server init|add-site|remove-site` do and print: who the coordinator is, and who may join."""

from pathlib import Path

from segformer3d.addresses import Address
from segformer3d.errors import ConfigurationError, FederationError
from segformer3d.files import write_text
from segformer3d.keys import hosts_of, read_certificate
from segformer3d.terminal import make_console
from server.control import open_control, register_sites
from server.coordinator import Brought, Coordinator, add_site, open_coordinator, remove_site, set_up
from server.gate import GateLimits
from server.nginx import nginx_settings

DEFAULT_PORT = 8443


def init_and_print(
    folder: str,
    host: list[str],
    port: int,
    listen: str | None,
    certificate: str | None,
    key: str | None,
    authority: str | None,
) -> None:
    """Set up a coordinator, or renew its certificates.

    Raises:
        SegfedError: an option breaks its rule, or the folder cannot be written.
    """
    brought = None
    if certificate or key or authority:
        if not (certificate and key and authority):
            raise ConfigurationError("an own certificate takes --certificate, --key and --authority together")
        brought = Brought(Path(certificate), Path(key), Path(authority))
    address = Address(host[0], port)
    where = Address.parse(listen) if listen else Address("0.0.0.0", port)  # noqa: S104 - the gate is for the outside
    coordinator = set_up(Path(folder), address, where, host, brought)
    write_text(coordinator.folder / "nginx.conf", nginx_settings(coordinator, GateLimits()))
    shown = hosts_of(read_certificate(coordinator.pair("gate")[0]))
    console = make_console()
    console.print(f"coordinator in {folder}: sites connect to {address}, the gate listens on {where}", soft_wrap=True)
    console.print(f"certificate for {', '.join(shown)}; give {coordinator.trusted} to every site", soft_wrap=True)
    console.print(f"Then: segfed server add-site NAME KEY --folder {folder}, and segfed server start {folder}")


def add_site_and_print(folder: str, name: str, key: str) -> None:
    """Let a site join, now if the coordinator runs, else when it starts.

    Raises:
        SegfedError: name or key are not as they must be.
    """
    coordinator, path = open_coordinator(Path(folder)), Path(key)
    try:
        text, where = (path.read_bytes(), key) if path.is_file() else (key.encode(), "KEY")
    except OSError as error:
        raise ConfigurationError(f"cannot read {key}: {error.strerror}") from error
    fingerprint = add_site(coordinator, name, text, where)
    make_console().print(f"site {name} may join; its key is {fingerprint}: compare by telephone", soft_wrap=True)
    _tell_superlink(coordinator)


def remove_site_and_print(folder: str, name: str) -> None:
    """Let a site join no more.

    Raises:
        SegfedError: there is no such site.
    """
    coordinator = open_coordinator(Path(folder))
    remove_site(coordinator, name)
    make_console().print(f"site {name} can join no more")
    _tell_superlink(coordinator)


def _tell_superlink(coordinator: Coordinator) -> None:
    """Register at once if the coordinator runs; else it does so when it starts."""
    try:
        with open_control(coordinator) as control:
            register_sites(control, coordinator)
    except FederationError:
        make_console().print("the coordinator does not run; it will know when it starts")
