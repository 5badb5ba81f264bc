"""What lies in a message in the place of plain weights: a model, the change of a model, or an update of one.

The server keeps track of h, the model that the sites hold, and sends its change: h' = h + D(C(x - h)), with C the codec
and D its inverse. What C loses of x is still there in x - h' and is sent in later rounds. The first model is a change
from nothing, h = 0. A site that does not hold h gets h' as a whole, exactly. Sites train from h' and measure h'; they
send D(C(u + e)), and e, what was lost of the update before, is theirs (`client.exchange.at_site`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord

from client.exchange.coding import decode, encode, sizes
from client.exchange.container import Header, read_header, seal, unseal
from client.exchange.settings import EXACT, Codec, Exchange
from client.weights import WEIGHTS, Weights, decode_weights, is_buffer
from segformer3d.errors import ReplyError
from segformer3d.tasks import Task

# How an end gets at the model in a request (of this run, for this task), and at the update in a reply.
OpenModel = Callable[[str, Task, ArrayRecord], Weights]
OpenUpdate = Callable[[ArrayRecord], Weights]

PACKED = "segfed-exchange"
NO_KEY = (0,)  # for what is not rounded at random, as no model is


class MissingBaseError(ReplyError):
    """A change of a model came to a site that does not hold this model; it can do with the whole."""

    remedy = "send it the whole model"


@dataclass(frozen=True, eq=False)
class Parcel:
    """A payload whose header is read, and whose content is not looked at yet."""

    header: Header
    frame: memoryview

    def values(self, layout: Weights) -> Weights:
        """The values in it, for this layout.

        Raises:
            ReplyError: its content is not what it must be.
        """
        return decode(unseal(self.frame, *sizes(self.header.codec, layout)), self.header.codec, layout)

    @property
    def whole(self) -> bool:
        """Whether it is a model for whoever holds no other."""
        return bool(self.header.model) and (self.header.codec == EXACT or not self.header.base)


@dataclass(frozen=True, eq=False)
class Change:
    """How a model follows from the one before.

    Attributes:
        model: the model that those who apply it will hold.
        digest: of this model.
        base: digest of the model before; empty for a change from nothing.
        payload: the change, coded.
    """

    model: Weights
    digest: str
    base: str
    payload: bytes


def digest_of_weights(weights: Weights) -> str:
    """SHA-256 over names, shapes and values, which tells models apart."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        found.update(repr((name, value.dtype.str, value.shape)).encode())
        found.update(np.ascontiguousarray(value).reshape(-1).data)
    return found.hexdigest()


def changed(before: Weights, change: Weights) -> Weights:
    """A model and its change put together; buffers are the change's."""
    return {name: value if is_buffer(name) else before[name] + value for name, value in change.items()}


def pack_change(model: Weights, held: Weights | None, exchange: Exchange) -> Change:
    """The change that brings those who hold a model (None: nothing) close to this one."""
    before = "" if held is None else digest_of_weights(held)
    base = {name: np.zeros_like(value) for name, value in model.items()} if held is None else held
    codec = exchange.start if held is None else exchange.down
    assert codec is not None, "a plain exchange packs nothing"
    change = {name: value if is_buffer(name) else value - base[name] for name, value in model.items()}
    parts = encode(change, codec, NO_KEY)
    reached = changed(base, decode(b"".join(parts), codec.name, model))
    digest = digest_of_weights(reached)
    return Change(reached, digest, before, seal(Header(codec.name, before, digest), parts))


def pack_whole(model: Weights, digest: str, before: str) -> bytes:
    """The payload of a whole model, which came after the one with the digest `before`."""
    return seal(Header(EXACT, before, digest), encode(model, Codec(EXACT), NO_KEY))


def pack_update(update: Weights, base: str, codec: Codec, key: Sequence[int]) -> tuple[Weights, bytes]:
    """An update of the model with this digest as those who get it will see it, and its payload.

    Raises:
        ReplyError: it is not finite.
    """
    parts = encode(update, codec, key)
    return decode(b"".join(parts), codec.name, update), seal(Header(codec.name, base), parts)


def record_of_payload(payload: bytes) -> ArrayRecord:
    """A payload as a Flower record."""
    return ArrayRecord({WEIGHTS: Array("uint8", (len(payload),), PACKED, payload)})


def plain_model(run: str, task: Task, record: ArrayRecord) -> Weights:
    """A model that travels as it is.

    Raises:
        ReplyError: it does not.
    """
    return decode_weights(record)


def is_packed(record: ArrayRecord) -> bool:
    """Whether a record says that it holds a payload rather than plain weights."""
    return WEIGHTS in record and record[WEIGHTS].stype == PACKED


def read_parcel(record: ArrayRecord) -> Parcel:
    """The payload in a Flower record.

    Raises:
        ReplyError: there is none, or its header is not what it must be.
    """
    if set(record) != {WEIGHTS}:
        raise ReplyError(f"the weights must be one array called {WEIGHTS!r}")
    array = record[WEIGHTS]
    if (array.stype, array.dtype, tuple(array.shape)) != (PACKED, "uint8", (len(array.data),)):
        raise ReplyError("the weights are not in the exchange that the run has")
    return Parcel(*read_header(array.data))


def open_update(record: ArrayRecord, codec: Codec, base: str, layout: Weights) -> Weights:
    """The update in a reply, which must be of this codec and of the model with this digest.

    Raises:
        ReplyError: it is not.
    """
    parcel = read_parcel(record)
    if parcel.header.model or parcel.header.codec != codec.name:
        raise ReplyError(f"its update must be of codec {codec.name}")
    if parcel.header.base != base:
        raise ReplyError("its update is one of another model")
    return parcel.values(layout)
