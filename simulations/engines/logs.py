"""Flower's messages in a file: a federation's progress is the caller's to show, not the engine's."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segformer3d.files import storage_errors


@contextmanager
def flower_logs_to(log: Path) -> Iterator[None]:
    """Append what Flower logs to the file `log` instead of showing it.

    Raises:
        StorageError: the file cannot be written.
    """
    with storage_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log, encoding="utf-8")
    logger = logging.getLogger("flwr")
    before, propagated = logger.handlers, logger.propagate
    file.setLevel(logging.INFO)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers, logger.propagate = [file], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated
        file.close()
