"""What `segfed server init|add-site|remove-site|run|stop` do and print; `start` and `status` have their own files."""

from pathlib import Path

from segformer3d.addresses import Address
from segformer3d.errors import ConfigurationError, FederationError
from segformer3d.keys import hosts_of, read_certificate
from segformer3d.terminal import make_console
from server.control import open_control, register_sites
from server.coordinator import Brought, Coordinator, add_site, open_coordinator, remove_site, set_up
from server.runs import new_run, read_federation_file, stop, submit

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


def run_and_print(folder: str, federation: str | None, resume: str | None) -> None:
    """Begin a run, or go on with one.

    Raises:
        SegfedError: the federation file is not as it must be, or the coordinator does not run.
    """
    if (federation is None) == (resume is None):
        raise ConfigurationError("name a federation file to begin a run, or --resume RUN to go on with one")
    coordinator = open_coordinator(Path(folder))
    with open_control(coordinator) as control:
        control.nodes()  # before a run folder is made: SuperLink answers
        run = resume or new_run(coordinator, read_federation_file(Path(federation or "")))
        submit(control, coordinator, run)
    console = make_console()
    console.print(f"run {run} {'goes on' if resume else 'is submitted'}; its folder is {coordinator.run_folder(run)}")
    console.print(f"Follow it with: segfed server status {folder}")


def stop_and_print(folder: str, run: str) -> None:
    """Stop a run after its last complete round.

    Raises:
        SegfedError: it does not go on, or the coordinator does not run.
    """
    coordinator = open_coordinator(Path(folder))
    with open_control(coordinator) as control:
        stop(control, coordinator, run)
    make_console().print(f"run {run} is stopped; go on with: segfed server run --resume {run} --folder {folder}")


def _tell_superlink(coordinator: Coordinator) -> None:
    """Register at once if the coordinator runs; else it does so when it starts."""
    try:
        with open_control(coordinator) as control:
            register_sites(control, coordinator)
    except FederationError:
        make_console().print("the coordinator does not run; it will know when it starts")
