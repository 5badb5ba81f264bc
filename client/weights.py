"""Weights on the wire: a model's state dict as Flower arrays, read back without trusting a byte of them.

An array travels as NumPy's .npy bytes (format 1.0: magic, header, raw values). What arrives is never handed to a
general loader: the header must be exactly the one that `np.save` writes for a float32 or int64 array, and exactly its
values must follow. So there is no pickle, no archive, no parser and no allocation that a sender could abuse.
"""

import io
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from segformer3d.errors import ReplyError
from segformer3d.model import SegFormer3D

AnyArray = NDArray[np.float32 | np.int64]
Weights = Mapping[str, AnyArray]

# What a batch norm remembers. It is no parameter: it travels as values, not as an update, and is pooled, not summed.
MEAN, VARIANCE, COUNTER = ".running_mean", ".running_var", ".num_batches_tracked"

NUMPY_BYTES = "numpy.ndarray"
_DTYPES: Mapping[str, np.dtype[Any]] = {"<f4": np.dtype("<f4"), "<i8": np.dtype("<i8")}
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(rb"\{'descr': '(<f4|<i8)', 'fortran_order': False, 'shape': \(([0-9, ]{0,200})\), \} *\n")


def is_buffer(name: str) -> bool:
    """Whether a state dict entry is a batch norm's memory rather than a parameter."""
    return name.endswith((MEAN, VARIANCE, COUNTER))


def parameter_norm(weights: Weights) -> float:
    """Euclidean norm of the parameters, or of their update; buffers are left out."""
    names = sorted(name for name in weights if not is_buffer(name))
    flat = (weights[name].ravel() for name in names)
    return math.sqrt(math.fsum(float(np.einsum("i,i->", x, x, dtype=np.float64)) for x in flat))


def weights_of(model: SegFormer3D) -> Weights:
    """A copy of all parameters and buffers, float32 and int64, on the CPU."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}


def update_of(model: SegFormer3D, received: Weights) -> Weights:
    """Parameters as the change from what was received, buffers as they are now."""
    state = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    return {name: value.copy() if is_buffer(name) else value - received[name] for name, value in state.items()}


def load_weights(model: SegFormer3D, weights: Weights) -> None:
    """Put weights into a model, every one of them and nothing else.

    Raises:
        ReplyError: a name, shape or dtype is not the model's.
    """
    check_layout(weights, layout_of(model))
    state = model.state_dict()
    if any(value.device.type != "cpu" for value in state.values()):
        model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, assign=True)
        return
    for name, value in state.items():  # memory that is there already is filled in a third of the time
        np.copyto(value.numpy(), weights[name])


def layout_of(model: SegFormer3D) -> Weights:
    """Arrays with the names, shapes and dtypes of a model's weights and any values; the model may be a skeleton."""
    state = model.state_dict()
    return {name: np.empty(tuple(v.shape), str(v.dtype).removeprefix("torch.")) for name, v in state.items()}


def check_layout(weights: Weights, expected: Weights) -> None:
    """See that two sets of weights have the same names, shapes and dtypes.

    Raises:
        ReplyError: they differ; the text names the first difference.
    """
    for name in sorted(set(weights) ^ set(expected)):
        raise ReplyError(f"the array {printable(name)} is {'missing' if name in expected else 'not one of the model'}")
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            raise ReplyError(f"the array {name} has shape {weights[name].shape} where the model has {value.shape}")
        if weights[name].dtype != value.dtype:
            raise ReplyError(f"the array {name} holds {weights[name].dtype} where the model holds {value.dtype}")


def encode_weights(weights: Weights) -> ArrayRecord:
    """Weights as a Flower record, in the order of their names."""
    return ArrayRecord({name: _encode(np.asarray(weights[name], order="C")) for name in sorted(weights)})


def _encode(array: AnyArray) -> Array:
    """What `Array(array)` makes, with one copy of the values instead of three."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    data = b"".join((header.getvalue(), array.reshape(-1).data))
    return Array(str(array.dtype), array.shape, NUMPY_BYTES, data)


def decode_weights(record: ArrayRecord) -> Weights:
    """Weights from a Flower record, as read-only views of its bytes.

    Raises:
        ReplyError: an array is not the plain float32 or int64 array that it says it is.
    """
    return {name: _decode(printable(name), array) for name, array in record.items()}


def printable(text: str, limit: int = 200) -> str:
    """Foreign text made safe for a log or a terminal: printable characters only, and not too many."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _decode(name: str, array: Array) -> AnyArray:
    if array.stype != NUMPY_BYTES:
        raise ReplyError(f"the array {name} is serialised as {printable(array.stype, 40)!r}, not as {NUMPY_BYTES!r}")
    dtype, shape, start = _read_header(name, array.data)
    if (array.dtype, tuple(array.shape)) != (dtype.name, shape):
        raise ReplyError(f"the array {name} is announced as another shape or dtype than it has")
    if len(array.data) - start != math.prod(shape) * dtype.itemsize:
        raise ReplyError(f"the array {name} does not have the number of bytes that its shape needs")
    return np.frombuffer(array.data, dtype, offset=start).reshape(shape)


def _read_header(name: str, data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """The dtype, the shape and where the values begin."""
    start = 10 + int.from_bytes(data[8:10], "little")
    header = _HEADER.fullmatch(data[10:start])
    if data[:8] != _MAGIC or header is None:
        raise ReplyError(f"the array {name} is not a plain float32 or int64 array (objects are never unpickled)")
    sizes = [size for size in header.group(2).decode().replace(" ", "").split(",") if size]
    return _DTYPES[header.group(1).decode()], tuple(int(size) for size in sizes), start
