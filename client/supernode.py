"""Flower's SuperNode with two of its weaknesses mended: `python -m client.supernode OPTIONS`.

When a connection fails in a way that Flower does not try again (a certificate that has expired meanwhile, an
interception of TLS), its loop returns, but a thread of its own keeps the process alive, and the site would be silent
for ever. Here the process ends, and `segfed site join` starts another.

When a run is stopped while its message is on the way, Flower forgets to forget the message. The worker would answer it,
and the SuperNode would take that answer for the one to the next message, and so on: each answer would leave the site
only when the next question comes. Here everything is dropped whenever no message could be fetched, for a SuperNode has
one message at a time.
"""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from flwr.common.constant import Status, SubStatus
from flwr.supernode import start_client_internal as flower
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate import NodeState

_UNFINISHED = (Status.PENDING, Status.STARTING, Status.RUNNING)


def main() -> None:
    """Take part until SIGTERM, or until Flower gives up. It does not return."""
    flower._pull_and_store_message = without_ghosts(flower._pull_and_store_message)
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


if __name__ == "__main__":
    main()
