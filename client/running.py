"""What a site that has joined leaves for other commands to read, and what they read from it."""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from segformer3d.files import write_json
from segformer3d.health import answers

RUNNING_FILE = "running.json"
NODE_FILE = "supernode.id"
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


def read_node(work: Path) -> int | None:
    """The number under which the coordinator knows this site's last SuperNode; None when there was none."""
    try:
        return int((work / NODE_FILE).read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def note_node(work: Path, node: int, *, let_in: bool) -> None:
    """Write it down, and whether the SuperNode of now was let in."""
    with suppress(OSError):  # a full disk: the next SuperNode will have to wait
        (work / NODE_FILE).write_text(f"{node}{' let in' if let_in else ''}", encoding="ascii")


def is_let_in(work: Path) -> bool:
    """Whether the coordinator has let in the SuperNode that was started last."""
    try:
        return (work / NODE_FILE).read_text(encoding="ascii").endswith("let in")
    except (OSError, ValueError):
        return False
