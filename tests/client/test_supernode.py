"""Flower's SuperNode forgets to forget a message whose run is stopped while it is fetched; ours does not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.start_client_internal import _pull_and_store_message

from client.bundle import make_bundle
from client.running import is_let_in, note_node, read_node
from client.supernode import noting_node, without_ghosts


@pytest.fixture
def state() -> NodeState:
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    made = factory.state()
    made.set_node_id(42)
    return made


def fetching(state: NodeState, fetch: Callable[..., int | None], *, stopped: bool) -> int | None:
    """Fetch one message of a run that may be stopped before the message is confirmed."""
    records = RecordDict({"weights": ArrayRecord({"w": Array(np.arange(4, dtype=np.float32))})})
    message = make_message(metadata=Metadata(7, "", 1, 42, "", "3", 1e9, 1e9, "train"), content=records)
    message.metadata.__dict__["_message_id"] = message.object_id
    objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}

    def confirm(run: int, message_id: str) -> None:
        if stopped:
            raise RunNotRunningException

    return fetch(
        state=state,
        object_store=state.object_store,
        node_config={},
        receive=lambda: (message, get_object_tree(message)),
        get_run=Run.create_empty,
        get_fab=lambda digest, run: Fab(digest, make_bundle(), {}),
        pull_object=lambda run, name: objects[name],
        confirm_message_received=confirm,
        trusted_entities=None,
    )


def left(state: NodeState) -> tuple[int, int]:
    """Messages that a worker would be given, and tasks that are not finished."""
    unfinished = [task for task in state.get_tasks() if task.status.status != "finished"]
    return len(state.get_messages_legacy()), len(unfinished)


def test_flower_leaves_a_ghost(state: NodeState) -> None:
    """If this fails, Flower has mended it, and `client.supernode` can do without."""
    assert fetching(state, _pull_and_store_message, stopped=True) is None
    assert left(state) == (1, 1)


def test_ours_leaves_nothing(state: NodeState) -> None:
    assert fetching(state, without_ghosts(_pull_and_store_message), stopped=True) is None
    assert left(state) == (0, 0)


def test_a_message_that_was_fetched_is_there(state: NodeState) -> None:
    assert fetching(state, without_ghosts(_pull_and_store_message), stopped=False) == 7
    assert left(state) == (1, 1)


def test_the_next_supernode_can_read_who_this_one_was(state: NodeState, tmp_path: Path) -> None:
    fetch = noting_node(without_ghosts(_pull_and_store_message), tmp_path)
    assert (read_node(tmp_path), is_let_in(tmp_path)) == (None, False)
    assert fetching(state, fetch, stopped=False) == 7
    assert (read_node(tmp_path), is_let_in(tmp_path)) == (42, True)
    note_node(tmp_path, 42, let_in=False)
    assert (read_node(tmp_path), is_let_in(tmp_path)) == (42, False)


def test_a_full_disk_stops_nothing(state: NodeState, tmp_path: Path) -> None:
    fetch = noting_node(without_ghosts(_pull_and_store_message), tmp_path / "no such folder")
    assert fetching(state, fetch, stopped=False) == 7
