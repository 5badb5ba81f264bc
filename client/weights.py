"""Weights on the wire: a model's state dict as one Flower array, read back without trusting a byte of it.

The array's bytes are in the safetensors format (https://huggingface.co/docs/safetensors): the length of a JSON header,
the header, the values. Flower transfers each array by a handful of requests of its own, and a model has hundreds of
tensors: one array for all of them makes a round of a minute one of seconds. What arrives is never handed to a general
loader: the header must describe float32 and int64 arrays that lie behind one another, and exactly their values must
follow. So there is no pickle, no archive and no allocation that a sender could abuse.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from segformer3d.errors import ReplyError
from segformer3d.model import SegFormer3D
from segformer3d.tensor_file import tensor_bytes

AnyArray = NDArray[np.float32 | np.int64]
Weights = Mapping[str, AnyArray]

# What a batch norm remembers. It is no parameter: it travels as values, not as an update, and is pooled, not summed.
MEAN, VARIANCE, COUNTER = ".running_mean", ".running_var", ".num_batches_tracked"

WEIGHTS, SAFETENSORS = "weights", "safetensors"
_DTYPES: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
_LONGEST_HEADER = 2**20  # bytes; 200 for each of the model's tensors are 50 kB
_MOST_AXES = 8


def parameters_of(weights: Weights) -> Weights:
    """Weights without what a batch norm remembers."""
    return {name: value for name, value in weights.items() if not is_buffer(name)}


def is_buffer(name: str) -> bool:
    """Whether a state dict entry is a batch norm's memory rather than a parameter."""
    return name.endswith((MEAN, VARIANCE, COUNTER))


def parameter_norm(weights: Weights) -> float:
    """Euclidean norm of the parameters, or of their update; buffers are left out."""
    names = sorted(parameters_of(weights))
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
    """Weights as a Flower record."""
    data = tensor_bytes(weights)
    return ArrayRecord({WEIGHTS: Array("uint8", (len(data),), SAFETENSORS, data)})


def decode_weights(record: ArrayRecord) -> Weights:
    """Weights from a Flower record, as read-only views of its bytes.

    Raises:
        ReplyError: they are not what `encode_weights` makes.
    """
    if set(record) != {WEIGHTS}:
        raise ReplyError(f"the weights must be one array called {WEIGHTS!r}")
    array = record[WEIGHTS]
    if (array.stype, array.dtype, tuple(array.shape)) != (SAFETENSORS, "uint8", (len(array.data),)):
        raise ReplyError("the weights are not the safetensors that they must be (objects are never unpickled)")
    return _parse(array.data)


def printable(text: str, limit: int = 200) -> str:
    """Foreign text made safe for a log or a terminal: printable characters only, and not too many."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _parse(data: bytes) -> Weights:
    header, start = _read_header(data)
    weights, end = {}, start
    for name, entry in header.items():
        dtype, shape = _read_entry(printable(name), entry)
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        if entry["data_offsets"] != [begin - start, end - start] or end > len(data):
            raise ReplyError(f"the values of the array {printable(name)} are not where they must be")
        weights[name] = np.frombuffer(data, dtype, math.prod(shape), begin).reshape(shape)
    if end != len(data):
        raise ReplyError("the weights are followed by something else")
    return weights


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The description of the arrays, and where their values begin."""
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < start or start > _LONGEST_HEADER:
        raise ReplyError("the weights are cut off, or no weights at all")
    try:
        header = json.loads(bytes(data[8:start]))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ReplyError("the description of the weights cannot be read")
    return header, start


def _read_entry(name: str, entry: object) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ReplyError(f"the array {name} is not described as it must be")
    shape, dtype = entry["shape"], entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ReplyError(f"the array {name} is neither float32 nor int64")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise ReplyError(f"the array {name} has no shape that can be read")
    return _DTYPES[dtype], tuple(shape)
