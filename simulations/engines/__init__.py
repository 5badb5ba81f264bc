"""Federations on one machine: the ServerApp and ClientApp of the deployment, unchanged, in two engines.

- `local`: the sites' work is done by a few long-lived processes (or, one site at a time, in this process).
- `ray`: Flower's own simulation engine.

Both promise: the same replies, whatever the order in which sites finish and however many work at once; a site that
raises or whose process dies costs its message, not the run; whatever the ServerApp raises reaches the caller as itself;
nothing is left running; nothing is printed (what Flower, Ray and the sites have to say goes to a log file).

A site knows itself by `context.node_config["partition-id"]` (0 to sites - 1). Node ids are random, as in a deployment.
"""

from collections.abc import Callable

from client.offline import switch_off_network

switch_off_network()  # Flower reads its switches when it is imported

from flwr.serverapp import ServerApp  # noqa: E402

from segformer3d.errors import ConfigurationError  # noqa: E402
from simulations.engines.local import run_local  # noqa: E402
from simulations.engines.settings import EngineSettings  # noqa: E402
from simulations.engines.source import ClientSource  # noqa: E402

__all__ = ["ENGINES", "ClientSource", "EngineSettings", "run_federation", "run_local", "run_ray"]

Engine = Callable[[ServerApp, ClientSource, int, EngineSettings], None]


def run_ray(server_app: ServerApp, source: ClientSource, sites: int, settings: EngineSettings) -> None:
    """Run a federation in Flower's simulation engine, on a Ray that is started for it and stopped after it.

    Raises:
        FederationError: Ray cannot start, or stops in the middle.
        Exception: whatever `server_app`, or making the ClientApp, raises.
    """
    from simulations.engines.flower_ray import run  # Ray takes seconds to import

    run(server_app, source, sites, settings)


ENGINES: dict[str, Engine] = {"local": run_local, "ray": run_ray}


def run_federation(
    engine: str, server_app: ServerApp, source: ClientSource, sites: int, settings: EngineSettings
) -> None:
    """Run a federation of `sites` sites in the engine of that name; returns when the ServerApp does.

    Raises:
        ConfigurationError: no engine has this name.
        FederationError: the engine cannot start or go on.
        Exception: whatever `server_app`, or making the ClientApp, raises.
    """
    if engine not in ENGINES:
        raise ConfigurationError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    ENGINES[engine](server_app, source, sites, settings)
