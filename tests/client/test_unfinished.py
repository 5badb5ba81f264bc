"""What a killed worker leaves to its successor."""

import stat
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, Metadata, RecordDict
from flwr.app.message.message import make_message

from client.unfinished import UNFINISHED_FILE, forget_unfinished, note_unfinished, read_unfinished


@pytest.fixture
def message() -> Message:
    records = RecordDict({"weights": ArrayRecord({"w": Array(np.arange(10**6, dtype=np.float32))})})
    metadata = Metadata(7, "m1", 1, 42, "", "3", 1000.0, 600.0, "train")
    return make_message(metadata=metadata, content=records)


def test_the_next_worker_knows_whom_to_answer(tmp_path: Path, message: Message) -> None:
    note_unfinished(tmp_path, "a token", message)
    left = read_unfinished(tmp_path)
    assert left is not None
    assert left.token == "a token"
    ours, theirs = left.message.metadata, message.metadata
    for name in ("run_id", "message_id", "src_node_id", "dst_node_id", "group_id", "message_type", "created_at", "ttl"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (tmp_path / UNFINISHED_FILE).stat().st_size < 1000, "nothing of what was in the message"
    assert stat.S_IMODE((tmp_path / UNFINISHED_FILE).stat().st_mode) == 0o600


def test_an_answered_message_leaves_nothing(tmp_path: Path, message: Message) -> None:
    note_unfinished(tmp_path, "a token", message)
    forget_unfinished(tmp_path)
    forget_unfinished(tmp_path)
    assert read_unfinished(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"token", b"token\n!!", b"a\nb\nc", b"\xff\n", b"token\nAAAA"])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / UNFINISHED_FILE).write_bytes(content)
    assert read_unfinished(tmp_path) is None
