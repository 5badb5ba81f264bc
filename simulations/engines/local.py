"""The default engine: one federation on this machine, with nothing to install, start or clean up."""

import secrets
from contextlib import AbstractContextManager, nullcontext

from flwr.app import Context, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from simulations.engines.grid import Desk, EngineGrid
from simulations.engines.handling import new_context
from simulations.engines.in_process import InProcess
from simulations.engines.logs import flower_logs_to
from simulations.engines.parcels import Parcel
from simulations.engines.pool import WorkerPool
from simulations.engines.settings import EngineSettings
from simulations.engines.source import ClientSource


def run_local(server_app: ServerApp, source: ClientSource, sites: int, settings: EngineSettings) -> None:
    """Run a federation in worker processes; one site at a time (`parallel` 1, or one site) works in this process.

    Worker processes import the program that calls this: a script needs its `if __name__ == "__main__":`.

    Raises:
        ConfigurationError: `sites` is less than 1.
        FederationError: a worker process cannot start or cannot make the ClientApp.
        Exception: whatever `server_app`, or making the ClientApp in this process, raises.
    """
    run = Run.create_empty(secrets.randbits(62))
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run.run_id, SUPERLINK_NODE_ID
    node_ids = _node_ids(sites)
    contexts = {node_id: new_context(run.run_id, node_id, site, sites) for site, node_id in enumerate(node_ids)}
    with flower_logs_to(settings.log), _open_desk(source, contexts, settings) as desk:
        context = Context(run_id=run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config={})
        server_app(grid=EngineGrid(run, node_ids, desk), context=context)


def _open_desk(
    source: ClientSource, contexts: dict[int, Parcel], settings: EngineSettings
) -> AbstractContextManager[Desk]:
    size = settings.workers(len(contexts))
    if size == 1:
        return nullcontext(InProcess(source.make(), contexts))
    return WorkerPool(source, size, contexts, settings.log)


def _node_ids(sites: int) -> list[int]:
    """Different, and as random as in a deployment, so that no result can come to depend on them."""
    node_ids: set[int] = set()
    while len(node_ids) < sites:
        node_ids.add(SUPERLINK_NODE_ID + 1 + secrets.randbits(62))
    return list(node_ids)
