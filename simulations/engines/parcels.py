"""Messages and contexts as bytes, to cross into another process.

A parcel is Flower's own protobuf form of the message, without the bytes of its arrays, followed by the bytes of each
array. Inside protobuf they would be copied five times: 0.3 s for a model of 18 MB and back, rather than 0.03 s.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from mmap import ACCESS_READ, mmap
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage

Parcel = list[bytes]
LARGE = 2**20  # bytes


def pack_message(message: Message) -> Parcel:
    """A message as bytes; `unpack_message` is its inverse."""
    if message.has_error():
        return [message_to_proto(message).SerializeToString()]
    light = make_message(metadata=message.metadata, content=_without_data(message.content))
    return [message_to_proto(light).SerializeToString(), *_data(message.content)]


def unpack_message(parcel: Parcel) -> Message:
    """The message that `pack_message` packed."""
    message = message_from_proto(ProtoMessage.FromString(parcel[0]))
    if message.has_content():
        _fill(message.content, parcel[1:])
    return message


def pack_context(context: Context) -> Parcel:
    """A context as bytes; `unpack_context` is its inverse."""
    light = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=context.node_config,
        state=_without_data(context.state),
        run_config=context.run_config,
        series_id=context.series_id,
    )
    return [context_to_proto(light).SerializeToString(), *_data(context.state)]


def unpack_context(parcel: Parcel) -> Context:
    """The context that `pack_context` packed."""
    context = context_from_proto(ProtoContext.FromString(parcel[0]))
    _fill(context.state, parcel[1:])
    return context


def send(connection: Connection, parcel: Parcel) -> None:
    """Send a parcel through a duplex pipe; may wait until the other side takes it."""
    sizes = [len(part) for part in parcel]
    connection.send_bytes(json.dumps(sizes).encode())
    if not _in_memory_file(sizes):
        for part in parcel:
            connection.send_bytes(part)
        return
    with open(os.memfd_create("parcel"), "wb") as memory:  # noqa: PTH123 - it has no path
        memory.writelines(parcel)
        memory.flush()
        send_handle(connection, memory.fileno(), None)


def receive(connection: Connection) -> Parcel:
    """Wait for a parcel.

    Raises:
        EOFError: the other side has closed the connection.
    """
    sizes = json.loads(connection.recv_bytes())
    if not _in_memory_file(sizes):
        return [connection.recv_bytes() for _ in sizes]
    file = recv_handle(connection)
    try:
        with mmap(file, sum(sizes), access=ACCESS_READ) as memory:
            return [memory.read(size) for size in sizes]
    finally:
        os.close(file)


def _in_memory_file(sizes: Sequence[int]) -> bool:
    """Whether a parcel travels as a file in memory that only the two sides know: two copies rather than five.

    It goes with the last side that has it open, however that side ends.
    """
    return sum(sizes) >= LARGE and hasattr(os, "memfd_create")


def _arrays(records: RecordDict) -> Iterator[Array]:
    for record in records.array_records.values():
        yield from record.values()


def _data(records: RecordDict) -> Iterator[bytes]:
    return (array.data for array in _arrays(records))


def _fill(records: RecordDict, data: Iterable[bytes]) -> None:
    for array, content in zip(_arrays(records), data, strict=True):
        array.data = content


def _without_data(records: RecordDict) -> RecordDict:
    light = RecordDict()
    for name, record in records.items():
        light[name] = _headers(record) if isinstance(record, ArrayRecord) else record
    return light


def _headers(record: ArrayRecord) -> ArrayRecord:
    return ArrayRecord({name: Array(array.dtype, array.shape, array.stype, b"") for name, array in record.items()})
