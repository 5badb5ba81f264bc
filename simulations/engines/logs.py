"""Flower's messages in a file: a federation's progress is the caller's to show, not the engine's."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def flower_logs_to(log: Path) -> Iterator[None]:
    """Append what Flower logs to the file `log` instead of showing it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("flwr")
    before, propagated = logger.handlers, logger.propagate
    file = logging.FileHandler(log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers, logger.propagate = [file], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated
        file.close()
