"""Messages and contexts as bytes, to cross into another process.

A parcel is Flower's own protobuf form of the message, without its arrays, followed by a description of the arrays and
the bytes of each. Inside protobuf they would be copied five times: 0.3 s for a model of 18 MB and back, rather than
0.03 s.
"""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import cast

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage

Parcel = list[bytes | memoryview]
LARGE = 2**20  # bytes
ALIGNMENT = 64  # bytes, as NumPy aligns the values in its files


def pack_message(message: Message) -> Parcel:
    """A message as bytes; `unpack_message` is its inverse."""
    if message.has_error():
        return [message_to_proto(message).SerializeToString()]
    light = make_message(metadata=message.metadata, content=_without_arrays(message.content))
    return [message_to_proto(light).SerializeToString(), *_arrays(message.content)]


def unpack_message(parcel: Parcel) -> Message:
    """The message that `pack_message` packed."""
    message = message_from_proto(ProtoMessage.FromString(bytes(parcel[0])))
    if message.has_content():
        _fill(message.content, parcel)
    return message


def pack_context(context: Context) -> Parcel:
    """A context as bytes; `unpack_context` is its inverse."""
    light = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=context.node_config,
        state=_without_arrays(context.state),
        run_config=context.run_config,
        series_id=context.series_id,
    )
    return [context_to_proto(light).SerializeToString(), *_arrays(context.state)]


def unpack_context(parcel: Parcel) -> Context:
    """The context that `pack_context` packed."""
    context = context_from_proto(ProtoContext.FromString(bytes(parcel[0])))
    _fill(context.state, parcel)
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
        for part in parcel:
            memory.write(part)
            memory.write(bytes(-len(part) % ALIGNMENT))
        memory.flush()
        send_handle(connection, memory.fileno(), None)


def receive(connection: Connection) -> Parcel:
    """Wait for a parcel. The parts of a large one are views of the memory that it came in.

    Raises:
        EOFError: the other side has closed the connection.
    """
    sizes = json.loads(connection.recv_bytes())
    if not _in_memory_file(sizes):
        return [connection.recv_bytes() for _ in sizes]
    import torch  # a process whose parcels are small starts in a third of the time without it

    file = recv_handle(connection)
    try:
        ends = list(accumulate(size + -size % ALIGNMENT for size in sizes))
        # Python's own mmap would keep a file open for each parcel.
        mapped = torch.from_file(f"/proc/self/fd/{file}", shared=True, size=ends[-1], dtype=torch.uint8)
        memory = mapped.numpy().data.toreadonly()
        return [memory[end - size - -size % ALIGNMENT :][:size] for end, size in zip(ends, sizes, strict=True)]
    finally:
        os.close(file)


def _in_memory_file(sizes: Sequence[int]) -> bool:
    """Whether a parcel travels as a file in memory that only the two sides know: one copy rather than five.

    It goes with the last side that has it open, however that side ends.
    """
    return sum(sizes) >= LARGE and hasattr(os, "memfd_create")


def _without_arrays(records: RecordDict) -> RecordDict:
    light = RecordDict()
    for name, record in records.items():
        light[name] = ArrayRecord() if isinstance(record, ArrayRecord) else record
    return light


def _arrays(records: RecordDict) -> Iterator[bytes]:
    """What there is to say of every array, and then what is in them."""
    arrays = [(record, name, array) for record, held in records.array_records.items() for name, array in held.items()]
    yield json.dumps([(record, name, a.dtype, a.shape, a.stype) for record, name, a in arrays]).encode()
    yield from (array.data for _, _, array in arrays)


def _fill(records: RecordDict, parcel: Parcel) -> None:
    described = json.loads(bytes(parcel[1]))
    for (record, name, dtype, shape, stype), data in zip(described, parcel[2:], strict=True):
        records.array_records[record][name] = array = Array(dtype, tuple(shape), stype, b"")
        array.data = cast(bytes, data)  # a view serves as well, but `Array()` would not take it
