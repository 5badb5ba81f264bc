"""Flower's simulation engine: the same federation on Ray.

Flower's `run_simulation` returns nothing, runs the ServerApp in a thread and loses the exception it ends with. Here it
runs in a thread itself, with a ServerApp that only hands out its grid; the real one runs in the calling thread, so what
it raises, Ctrl-C included, is what the caller gets.
"""

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import ray
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.simulation.ray_transport.ray_actor import BasicActorPool

from segformer3d.errors import FederationError
from simulations.engines.grid import POLL_SECONDS, EngineGrid
from simulations.engines.logs import flower_logs_to
from simulations.engines.quiet_ray import ray_on_this_machine, replaced
from simulations.engines.settings import EngineSettings
from simulations.engines.source import ClientSource, SourcedClientApp

RESOURCES = {"num_cpus": 1, "num_gpus": 0}  # of a site; its settings choose the device, as in every engine


def run(server_app: ServerApp, source: ClientSource, sites: int, settings: EngineSettings) -> None:
    """See `simulations.engines.run_ray`."""
    source.make()  # a mistake in it is raised here, as itself, rather than answered to every message
    with (
        flower_logs_to(settings.log),
        ray_on_this_machine(settings.workers(sites)),
        _simulation(SourcedClientApp(source), sites) as (grid, context),
    ):
        server_app(grid=grid, context=context)


class _Desk:
    """Flower's in-memory grid, watched: it would wait for ever for a simulation that has stopped."""

    def __init__(self, grid: Grid, simulation: Future[None]) -> None:
        self._grid = grid
        self._simulation = simulation

    def hand_in(self, message: Message) -> str:
        (message_id,) = self._grid.push_messages([message])
        return message_id

    def collect(self, message_ids: set[str], wait: float) -> list[Message]:
        _check(self._simulation)
        replies = list(self._grid.pull_messages(message_ids))
        if not replies:
            time.sleep(wait)
        return replies


class _Actors(BasicActorPool):
    """Flower's pool of site processes, with two additions: a dead one is replaced, and all of them can be ended."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._ending = threading.Lock()
        self._terminated = False

    def fetch_result_and_return_actor_to_pool(self, future: Any) -> tuple[Message, Context]:
        try:
            return super().fetch_result_and_return_actor_to_pool(future)
        except ray.exceptions.RayActorError:
            actor = self.create_actor_fn()  # type: ignore[no-untyped-call]
            self._future_to_actor[future] = actor  # returned to the pool in place of the dead one
            raise

    def end(self) -> None:
        with self._ending:
            if not self._terminated:
                for actor in (*self.pool, *self._future_to_actor.values()):
                    ray.kill(actor)

    def terminate_all_actors(self) -> None:
        """Flower stops Ray right after it; `ray.kill` would then start another one."""
        with self._ending:
            self._terminated = True
            super().terminate_all_actors()


@contextmanager
def _simulation(client_app: ClientApp, sites: int) -> Iterator[tuple[EngineGrid, Context]]:
    """Flower's engine in a thread, with all its nodes there; ended, whatever it is doing, with the `with` block."""
    offered: queue.Queue[tuple[Grid, Context]] = queue.Queue()
    finished = threading.Event()
    pools: list[_Actors] = []
    stage = ServerApp()

    @stage.main()
    def hand_out(grid: Grid, context: Context) -> None:
        offered.put((grid, context))
        finished.wait()

    def make_pool(**arguments: Any) -> _Actors:
        pools.append(_Actors(**arguments))
        return pools[-1]

    with replaced(raybackend, "BasicActorPool", make_pool), ThreadPoolExecutor(1) as thread:
        simulation = thread.submit(
            run_simulation, stage, client_app, sites, backend_config={"client_resources": dict(RESOURCES)}
        )
        try:
            grid, context = _wait_for_nodes(offered, sites, simulation)
            yield EngineGrid(grid.run, grid.get_node_ids(), _Desk(grid, simulation)), context
        finally:
            finished.set()
            while not simulation.done():
                for pool in pools:
                    pool.end()
                time.sleep(POLL_SECONDS)


def _wait_for_nodes(
    offered: "queue.Queue[tuple[Grid, Context]]", sites: int, simulation: Future[None]
) -> tuple[Grid, Context]:
    while offered.empty():
        _check(simulation)
        time.sleep(POLL_SECONDS)
    grid, context = offered.get()
    while len(list(grid.get_node_ids())) < sites:
        _check(simulation)
        time.sleep(POLL_SECONDS)
    return grid, context


def _check(simulation: Future[None]) -> None:
    if simulation.done():
        raise FederationError("Flower's simulation engine has stopped; see its log") from simulation.exception()
