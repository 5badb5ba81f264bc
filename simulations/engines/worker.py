"""A process that does sites' work: it makes the ClientApp once, then answers messages until nobody sends any.

On the connection, the worker first sends bytes that are empty (ready) or say why it cannot work; then every context and
message it receives are answered by a context and a reply.
"""

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from segformer3d.errors import SegfedError
from segformer3d.processes import die_with_parent, print_to
from simulations.engines.handling import answer
from simulations.engines.parcels import Parcel, receive, send
from simulations.engines.source import ClientSource


def run_worker(connection: Connection, source: ClientSource, log: Path) -> None:
    """Serve until the other end of `connection` closes."""
    os.setpgid(0, 0)  # a group of its own: Ctrl-C does not reach it, and what a site starts can be ended with it
    die_with_parent(lambda: os.killpg(0, signal.SIGKILL))
    print_to(log)
    try:
        app = source.make()
    except SegfedError as error:
        connection.send_bytes(str(error).encode())
        return
    connection.send_bytes(b"")
    while True:
        context, message = _receive(connection)
        for parcel in answer(app, context, message):
            send(connection, parcel)


def _receive(connection: Connection) -> tuple[Parcel, Parcel]:
    try:
        return receive(connection), receive(connection)
    except EOFError:
        sys.exit(0)
