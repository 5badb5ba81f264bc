"""A federation without training: float arithmetic, memory in the context's state, and every way a site can fail.

It is imported by tests, by worker processes and by Ray's processes alike, so it imports nothing heavy.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from segformer3d.errors import ConfigurationError
from simulations.engines import ClientSource

Main = Callable[[Grid, Context], None]


def toy_source(**arguments: object) -> ClientSource:
    return ClientSource.of(f"{__name__}:make_client_app", **arguments)


def make_client_app(pull: float = 0.1, complaint: str = "", output: str = "") -> ClientApp:
    if complaint:
        raise ConfigurationError(complaint)
    print(output, end="", file=sys.stderr)
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site = int(context.node_config["partition-id"])
        context.state["last"] = ConfigRecord({"command": str(message.content["config"]["command"])})
        obey(message.content["config"], site)
        return Message(step(message.content["arrays"], context, site, pull), reply_to=message)

    @app.query()
    def recall(message: Message, context: Context) -> Message:
        about = ConfigRecord({**context.node_config, "cwd": str(Path.cwd()), "pid": os.getpid()})
        return Message(RecordDict({"about": about, **context.state}), reply_to=message)

    return app


def step(weights: ArrayRecord, context: Context, site: int, pull: float) -> RecordDict:
    """A leaky memory of the weights, in float32: any change of order or precision shows in the last bits."""
    (global_values,) = weights.to_numpy_ndarrays()
    memory = (
        context.state["memory"].to_numpy_ndarrays()[0] if "memory" in context.state else np.zeros_like(global_values)
    )
    memory = np.float32(0.9) * memory + np.float32(pull) * np.sin(global_values * np.float32(site + 1))
    context.state["memory"] = ArrayRecord([memory])
    metrics = MetricRecord({"site": site, "norm": float(np.sqrt(np.square(memory, dtype=np.float64).sum()))})
    return RecordDict({"arrays": ArrayRecord([memory]), "metrics": metrics, "empty": ConfigRecord({"list": []})})


def obey(config: ConfigRecord, site: int) -> None:
    """Do what the server's command says, if it is meant for this site."""
    if site not in config["sites"]:
        return
    argument = str(config["argument"])
    match config["command"]:
        case "sleep":
            time.sleep(float(argument))
        case "wait":
            work_until_told(Path(argument), site)
        case "raise":
            raise RuntimeError("the toy broke")
        case "exit":
            os._exit(3)
        case "crash":
            ctypes.string_at(0)
        case "orphan":
            if os.fork() == 0:  # holds every open file of its parent
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)


def work_until_told(end: Path, site: int) -> None:
    """Show that the site is at work, and stop when the file `end` is there."""
    at_work(end, site).touch()
    while not end.exists():
        time.sleep(0.02)


def at_work(end: Path, site: int) -> Path:
    return end.with_name(f"{end.name}.{site}")


def make_server_app(main: Main) -> ServerApp:
    app = ServerApp()
    app.main()(main)
    return app


def order(
    node_id: int, values: np.ndarray, command: str = "", sites: Sequence[int] = (), argument: str = ""
) -> Message:
    config = ConfigRecord({"command": command, "sites": list(sites), "argument": argument})
    return Message(RecordDict({"arrays": ArrayRecord([values]), "config": config}), node_id, "train")


def question(node_id: int) -> Message:
    return Message(RecordDict(), node_id, "query")


def federate(grid: Grid, rounds: int, size: int = 1000) -> np.ndarray:
    """Rounds of training, summed by site; returns the final weights, float32 of shape (size,)."""
    values = np.linspace(-1, 1, size, dtype=np.float32)
    for _ in range(rounds):
        replies = grid.send_and_receive([order(node, values) for node in grid.get_node_ids()])
        updates = {
            int(reply.content["metrics"]["site"]): reply.content["arrays"].to_numpy_ndarrays()[0] for reply in replies
        }
        for site in sorted(updates):
            values = values + updates[site] / np.float32(len(updates))
    return values


def site_nodes(grid: Grid) -> dict[int, int]:
    """The node of each site, by the site's number."""
    replies = grid.send_and_receive([question(node) for node in grid.get_node_ids()])
    return {int(reply.content["about"]["partition-id"]): reply.metadata.src_node_id for reply in replies}
