"""Flower's SuperNode with three of its weaknesses mended: `python -m client.supernode OPTIONS`.

When a connection fails in a way that Flower does not try again (a certificate that has expired meanwhile, an
interception of TLS), its loop returns, but a thread of its own keeps the process alive, and the site would be silent
for ever. Here the process ends, and `segfed site join` starts another.

When a run is stopped while its message is on the way, Flower forgets to forget the message. The worker would answer it,
and the SuperNode would take that answer for the one to the next message, and so on: each answer would leave the site
only when the next question comes. Here everything is dropped whenever no message could be fetched, for a SuperNode has
one message at a time.

When a SuperNode is killed, the coordinator thinks for a minute or two that it is there, and lets no other one in with
the same key. Here it is told first thing, by the successor, which finds in a file who its predecessor was.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from flwr.common.constant import Status, SubStatus
from flwr.supernode import start_client_internal as flower
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate import NodeState

from client.fleet import take_leave
from client.running import note_node, read_node
from client.site_file import SITE, read_site_file

ABSENCE_S = 5.0  # long enough for a run to see that the site is away, and that it must ask again
_UNFINISHED = (Status.PENDING, Status.STARTING, Status.RUNNING)


def main() -> None:
    """Take part until SIGTERM, or until Flower gives up. It does not return."""
    site = read_site_file(Path(os.environ[SITE]))
    work, before = site.site.work, read_node(site.site.work)
    if before is not None:
        note_node(work, before, let_in=False)
        if take_leave(site, before):
            time.sleep(ABSENCE_S)
    flower._pull_and_store_message = noting_node(without_ghosts(flower._pull_and_store_message), work)
    status = 1
    try:
        flower_supernode()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def without_ghosts(pull: Callable[..., int | None]) -> Callable[..., int | None]:
    """Flower's fetching of the next message, and nothing left over when there is none."""

    @wraps(pull)
    def pull_or_tidy(*, state: NodeState, **others: Any) -> int | None:
        run: int | None = pull(state=state, **others)
        if run is None:
            state.delete_messages()
            for task in state.get_tasks(statuses=_UNFINISHED):
                state.finish_task(task.task_id, SubStatus.FAILED, "its message could not be fetched")
        return run

    return pull_or_tidy


def noting_node(pull: Callable[..., int | None], work: Path) -> Callable[..., int | None]:
    """Flower's fetching, and in a file that the coordinator has let this SuperNode in, and under which number."""
    written = False

    @wraps(pull)
    def pull_and_note(*, state: NodeState, **others: Any) -> int | None:
        nonlocal written
        if not written:
            note_node(work, state.get_node_id(), let_in=True)
            written = True
        return pull(state=state, **others)

    return pull_and_note


if __name__ == "__main__":
    main()
