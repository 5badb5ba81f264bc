"""What a site that has joined leaves for other commands to read, and what they read from it."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from segformer3d.files import write_json
from segformer3d.health import answers

RUNNING_FILE = "running.json"
SUPERNODE, WORKER = "supernode", "worker"


@dataclass(frozen=True)
class Running:
    """A `segfed site join` that runs: its process, the port of its health service, and when it began (since 1970)."""

    health: int
    process: int = field(default_factory=os.getpid)
    since: float = field(default_factory=time.time)


def write_running(work: Path, running: Running) -> None:
    """Say that the site has joined.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(work / RUNNING_FILE, asdict(running))


def read_running(work: Path) -> Running | None:
    """The join that runs now; None when there is none, or when it died."""
    try:
        running = Running(**json.loads((work / RUNNING_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return running if answers(running.health) else None
