"""Ctrl-C for the process of the tests itself, at an event."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ctrl_c_when(path: Path) -> Iterator[None]:
    """Pressed once a file is there; what runs inside ends with it.

    Where Python happens to be in a finalizer or a callback of a weak reference, it drops the exception: then it is
    pressed again, as people do.
    """
    press, over, tell = threading.Event(), threading.Event(), sys.unraisablehook

    def dropped(what: "sys.UnraisableHookArgs") -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            press.set()
        else:
            tell(what)

    def watch() -> None:
        while not path.exists():
            if over.wait(0.02):
                return
        press.set()
        while not over.is_set():
            if press.wait(0.02):
                press.clear()
                os.kill(os.getpid(), signal.SIGINT)

    sys.unraisablehook = dropped
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        sys.unraisablehook = tell
