"""A site's audit trail: every message that it was asked, and what it answered, in `audit.jsonl` of its work folder.

What was in a message is told by its size and its SHA-256, which is the one that the coordinator writes into its own.
"""

from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.common.serde import recorddict_to_proto

from client.records import digest_of
from segformer3d.audit import append_record

TRAIL = "audit.jsonl"


def note_message(work: Path, what: str, message: Message) -> None:
    """Take down a message that was "received" or is "sent".

    Raises:
        SegfedError: the trail cannot be written, or was damaged.
    """
    group = message.metadata.group_id
    told: dict[str, Any] = {"peer": "coordinator", "kind": message.metadata.message_type}
    told["round"] = int(group) if group.isdecimal() else None
    if message.has_error():
        told |= {"error": message.error.code, "reason": message.error.reason}
    else:
        size = recorddict_to_proto(message.content).ByteSize()
        told |= {"bytes": size, "sha256": digest_of(message.content)}
    append_record(work / TRAIL, what=what, **told)
