"""Safetensors files from arrays where they lie.

The format (https://huggingface.co/docs/safetensors): the length of a JSON header, the header, the values. The library
first puts a file together in memory, one copy of every model, state and optimizer too many in each round, and its own
way to write one hides what the system said of a full disk. Reading is the library's.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.files import Buffer, write_parts

_DTYPES = {np.dtype("<f4"): "F32", np.dtype("<f8"): "F64", np.dtype("<i8"): "I64"}


def write_tensors(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], over: Path | None = None
) -> None:
    """Write arrays and a description of them, whole or not at all; equal arrays make equal files.

    Args:
        path: the file.
        arrays: float32, float64 or int64.
        metadata: texts by name.
        over: a file that is not needed any more and may be written over, see `segformer3d.files.write_atomic`.

    Raises:
        StorageError: the file cannot be written; an older file at `path` is untouched.
    """
    write_parts(path, _parts(arrays, metadata), over)


def tensor_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What `write_tensors` would write without a description."""
    return b"".join(_parts(arrays, {}))


def _parts(unordered: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> Iterator[Buffer]:
    arrays = {name: np.asarray(value, order="C") for name, value in unordered.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # The widest values first, so that all of them are aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        shape, dtype = arrays[name].shape, _DTYPES[arrays[name].dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from (arrays[name].reshape(-1).data for name in order)
