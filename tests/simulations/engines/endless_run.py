"""A federation that does not end by itself, for test_interrupts.py. Arguments: engine, log, file that ends it."""

import sys
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid

from simulations.engines import EngineSettings, run_federation

from .toy_federation import make_server_app, order, toy_source


def main(engine: str, log: str, end: str) -> None:
    def wait_for_ever(grid: Grid, context: Context) -> None:
        values = np.zeros(4, np.float32)
        grid.send_and_receive([order(node, values, "wait", (0, 1, 2), end) for node in grid.get_node_ids()])

    try:
        run_federation(engine, make_server_app(wait_for_ever), toy_source(), 3, EngineSettings(2, Path(log)))
    except KeyboardInterrupt:
        print("interrupted")


if __name__ == "__main__":
    main(*sys.argv[1:])
