"""A process that does sites' work: it makes the ClientApp once, then answers messages until nobody sends any.

On the connection, the worker first sends bytes that are empty (ready) or say why it cannot work; then every context and
message it receives are answered by a context and a reply.
"""

import os
import signal
import sys
import threading
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

from segformer3d.errors import SegfedError
from simulations.engines.handling import answer
from simulations.engines.parcels import Parcel, receive, send
from simulations.engines.source import ClientSource


def run_worker(connection: Connection, source: ClientSource, log: str) -> None:
    """Serve until the other end of `connection` closes."""
    os.setpgid(0, 0)  # a group of its own: Ctrl-C does not reach it, and what a site starts can be ended with it
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _print_to(log)
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


def _die_with_parent() -> None:
    """A worker that trains would not notice for hours that nobody waits for it any more."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


def _print_to(log: str) -> None:
    """Send everything that this process prints, down to a native crash, to the log."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
