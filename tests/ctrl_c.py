"""Ctrl-C for the process of the tests itself, at an event."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ctrl_c_when(path: Path) -> Iterator[None]:
    """Pressed once a file is there; what runs inside ends with it."""
    over = threading.Event()

    def watch() -> None:
        while not path.exists():
            if over.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
