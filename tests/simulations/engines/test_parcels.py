"""Messages and contexts as bytes. Oracle: Flower's own protobuf form, which a round trip must not change."""

import threading
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import context_to_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from client.weights import decode_weights, encode_weights
from simulations.engines.parcels import LARGE, pack_context, pack_message, receive, send, unpack_context, unpack_message

DTYPES = st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_])
ARRAYS = DTYPES.flatmap(lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, min_side=0)))
ARRAY_RECORDS = st.lists(ARRAYS, max_size=3).map(ArrayRecord)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats()
METRIC_RECORDS = st.dictionaries(st.text(), NUMBERS | st.lists(st.floats())).map(MetricRecord)
CONFIG_RECORDS = st.dictionaries(st.text(), NUMBERS | st.text() | st.binary() | st.booleans()).map(ConfigRecord)
RECORDS = st.dictionaries(st.text(), ARRAY_RECORDS | METRIC_RECORDS | CONFIG_RECORDS, max_size=4).map(RecordDict)


@pytest.fixture(autouse=True, scope="module")
def identity() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 2, 1


@given(RECORDS)
def test_a_message_arrives_as_it_was(records: RecordDict) -> None:
    message = Message(records, 7, "train", ttl=9.5, group_id="3")
    assert same(message_to_proto(unpack_message(pack_message(message))), message_to_proto(message))


@given(RECORDS)
def test_a_context_arrives_as_it_was(records: RecordDict) -> None:
    context = Context(
        run_id=2, node_id=2**64 - 1, node_config={"partition-id": 0}, state=records, run_config={"a": "b"}
    )
    assert same(context_to_proto(unpack_context(pack_context(context))), context_to_proto(context))


def test_an_error_arrives_as_it_was() -> None:
    reply = Message(Error(2, "why"), reply_to=Message(RecordDict(), 7, "train"))
    assert same(message_to_proto(unpack_message(pack_message(reply))), message_to_proto(reply))


def same(one: object, other: object) -> bool:
    """As bytes: protobuf messages with NaN in them differ from themselves."""
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


@pytest.mark.parametrize("sizes", [[], [0], [3, 0, 5], [LARGE], [LARGE - 1, 0, 7], [10, 3 * LARGE, 1]])
def test_a_parcel_of_any_size_crosses_a_pipe_and_leaves_it_usable(sizes: list[int]) -> None:
    parcel = [np.random.default_rng(size).bytes(size) for size in sizes]
    ours, theirs = Pipe()
    received: list[list[bytes]] = []
    reader = threading.Thread(target=lambda: received.extend(receive(theirs) for _ in range(2)))
    reader.start()
    before = files()
    for _ in range(2):
        send(ours, parcel)
    reader.join(timeout=60)
    assert received == [parcel, parcel]
    assert files() == before


def files() -> set[str]:
    """What this process has open, but for what other threads look up of the system meanwhile."""
    targets = set()
    for opened in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed by now
            targets.add(str(opened.readlink()))
    return {target for target in targets if not target.startswith("/proc/")}


def test_the_arrays_of_a_large_message_are_views_that_lie_as_numpy_likes_them() -> None:
    weights = {"w": np.arange(LARGE, dtype=np.float32), "n": np.array(7), "b": np.ones(3, np.int64)}
    records = RecordDict({"a": encode_weights(weights), "other": ArrayRecord([np.arange(3)])})
    message = Message(records, 7, "train")
    ours, theirs = Pipe()
    send(ours, pack_message(message))
    received = unpack_message(receive(theirs)).content.array_records
    for name, value in decode_weights(received["a"]).items():
        assert np.array_equal(value, weights[name])
        assert value.flags.aligned
        assert not value.flags.writeable
    assert np.array_equal(received["other"].to_numpy_ndarrays()[0], np.arange(3))  # Flower's own way to read it
    send(theirs, pack_message(message))  # and it can be sent on


@pytest.mark.parametrize("sent", [b"", b"[2097152]"], ids=["nothing", "only the sizes"])
def test_a_side_that_is_gone_is_the_end_of_the_file(sent: bytes) -> None:
    ours, theirs = Pipe()
    if sent:
        ours.send_bytes(sent)
    ours.close()
    with pytest.raises(EOFError):
        receive(theirs)
