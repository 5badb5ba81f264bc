"""Finished replies on a site's disk, until the coordinator shows that it has them.

A site may die, or lose its connection, between training and the coordinator's receipt. It is then asked the same
question again, and answers from here instead of training (and spending privacy) again. Asking for another round is the
receipt: what answered earlier rounds is dropped.
"""

import hashlib
from pathlib import Path

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from segformer3d.files import storage_errors, write_parts

_DIGEST_BYTES = 32


class Outbox:
    """The kept reply of one run at one site: one file, a digest of it and the reply.

    Questions are known by their digest (`client.records.digest_of`).

    Args:
        folder: of the run at the site.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, question: str) -> RecordDict | None:
        """The reply to exactly this question, if it was finished before; whatever answers another one is dropped.

        Raises:
            StorageError: an old reply cannot be removed.
        """
        path = self._path(question)
        for other in self._folder.glob("reply-*.bin"):
            if other != path:
                with storage_errors(other):
                    other.unlink(missing_ok=True)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        digest, reply = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(reply).digest() != digest:  # damaged: training again gives the same
            return None
        try:
            return recorddict_from_proto(ProtoRecordDict.FromString(reply))
        except DecodeError:
            return None

    def keep(self, question: str, reply: RecordDict) -> None:
        """Put a finished reply on disk.

        Raises:
            StorageError: the disk is full.
        """
        content = recorddict_to_proto(reply).SerializeToString()
        write_parts(self._path(question), [hashlib.sha256(content).digest(), content])

    def _path(self, question: str) -> Path:
        return self._folder / f"reply-{question[:32]}.bin"
