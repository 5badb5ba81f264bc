"""The message that a worker is at work on, kept on disk so that its successor can say what became of it.

A worker may be killed, by a machine that is out of memory for one. Flower waits for missed heartbeats, a minute or
more, before it tells the coordinator. The next worker, started at once, tells it sooner: the task's token is in the
file, which is for the site's own user and good for the SuperNode on this machine only.
"""

from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.app.message.message import make_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from segformer3d.files import write_secret

UNFINISHED_FILE = "unfinished.task"


@dataclass(frozen=True)
class Unfinished:
    """A task: its token, and its message without what was in it."""

    token: str
    message: Message


def note_unfinished(work: Path, token: str, message: Message) -> None:
    """Say that this message is being worked on.

    Raises:
        StorageError: the disk is full.
    """
    envelope = make_message(metadata=message.metadata, content=RecordDict())
    lines = [token.encode(), b64encode(message_to_proto(envelope).SerializeToString())]
    path = work / UNFINISHED_FILE
    path.unlink(missing_ok=True)
    write_secret(path, b"\n".join(lines))


def forget_unfinished(work: Path) -> None:
    """It is answered."""
    (work / UNFINISHED_FILE).unlink(missing_ok=True)


def read_unfinished(work: Path) -> Unfinished | None:
    """What the worker before this one left undone; None when there is nothing, or nothing that can be read."""
    try:
        token, envelope = (work / UNFINISHED_FILE).read_bytes().split(b"\n")
        return Unfinished(
            token.decode(), message_from_proto(ProtoMessage.FromString(b64decode(envelope, validate=True)))
        )
    except (OSError, ValueError, DecodeError):
        return None
