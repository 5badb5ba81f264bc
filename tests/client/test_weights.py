"""Weights on the wire. Oracles: the arrays that were put in; the safetensors library; nothing is ever unpickled."""

import io
import json
import pickle
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from client.weights import (
    SAFETENSORS,
    WEIGHTS,
    check_layout,
    decode_weights,
    encode_weights,
    is_buffer,
    load_weights,
    printable,
    weights_of,
)
from segformer3d.errors import ReplyError
from segformer3d.model import build
from segformer3d.tensor_file import tensor_bytes

from .tiny_site import TINY_MODEL, tiny_weights

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "b.num_batches_tracked": np.array(3),
    "none": np.zeros((0, 4), np.float32),
}


def wire(
    data: bytes, dtype: str = "uint8", shape: tuple[int, ...] | None = None, stype: str = SAFETENSORS
) -> ArrayRecord:
    return ArrayRecord({WEIGHTS: Array(dtype, (len(data),) if shape is None else shape, stype, data)})


def described(header: object, values: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = tensor_bytes({"a": np.ones(2, np.float32)})


def test_what_goes_in_comes_out() -> None:
    decoded = decode_weights(encode_weights(ARRAYS))
    assert set(decoded) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(decoded[name], array)
        assert (decoded[name].dtype, decoded[name].shape) == (array.dtype, array.shape)


def test_decoding_does_not_copy() -> None:
    assert not decode_weights(wire(GOOD))["a"].flags.owndata


def test_the_library_reads_the_same_bytes() -> None:
    (array,) = encode_weights(ARRAYS).values()
    for name, value in load(array.data).items():
        np.testing.assert_array_equal(value, ARRAYS[name])


def test_arrays_may_come_in_any_order() -> None:
    header = {"b": entry(shape=[1], offsets=[0, 4]), "a": entry("I64", [], [4, 12])}
    decoded = decode_weights(wire(described(header, np.float32(2).tobytes() + np.int64(3).tobytes())))
    assert {name: value.tolist() for name, value in decoded.items()} == {"a": 3, "b": [2.0]}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    bomb = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    for record in (
        ArrayRecord({WEIGHTS: Array("object", (1,), "numpy.ndarray", saved(bomb))}),
        wire(pickle.dumps(bomb)),
    ):
        with pytest.raises(ReplyError):
            decode_weights(record)
    assert not (tmp_path / "exploded").exists()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


BAD = {
    "empty": wire(b""),
    "garbage": wire(b"\x00garbage" * 20),
    "an archive": wire(b"PK\x03\x04" + bytes(60)),
    "cut": wire(GOOD[:-1]),
    "too long": wire(GOOD + b"\0"),
    "header only": wire(GOOD[:-8]),
    "half a header": wire(GOOD[:40]),
    "a header of exabytes": wire(b"\xff" * 8 + GOOD[8:]),
    "another serialisation": wire(GOOD, stype="pickle"),
    "numpy's serialisation": wire(saved(np.ones(2, np.uint8)), stype="numpy.ndarray"),
    "announced as another shape": wire(GOOD, shape=(1, 2)),
    "announced as another dtype": wire(GOOD, dtype="float32"),
    "two arrays": ArrayRecord({name: Array("uint8", (len(GOOD),), SAFETENSORS, GOOD) for name in (WEIGHTS, "b")}),
    "another name": ArrayRecord({"b": Array("uint8", (len(GOOD),), SAFETENSORS, GOOD)}),
    "no array": ArrayRecord(),
    "float64": wire(described({"a": entry("F64", [1])}, bytes(8))),
    "bfloat16": wire(described({"a": entry("BF16", [4])}, bytes(8))),
    "a dtype that is no text": wire(described({"a": entry(["F32"])}, bytes(8))),  # type: ignore[arg-type]
    "terabytes": wire(described({"a": entry(shape=[2**40], offsets=[0, 2**42])}, bytes(8))),
    "sizes that overflow": wire(described({"a": entry(shape=[2**62, 4], offsets=[0, 0])})),
    "a negative size": wire(described({"a": entry(shape=[-2])}, bytes(8))),
    "a size that is none": wire(described({"a": entry(shape=[True, 2])}, bytes(8))),
    "too many axes": wire(described({"a": entry(shape=[1] * 60 + [2])}, bytes(8))),
    "overlapping": wire(described({"a": entry(), "b": entry()}, bytes(8))),
    "a hole": wire(described({"a": entry(offsets=[8, 16])}, bytes(16))),
    "a description besides": wire(described({"__metadata__": {"x": "y"}, "a": entry()}, bytes(8))),
    "a field besides": wire(described({"a": {**entry(), "code": "x"}}, bytes(8))),
    "the same name twice": wire(described(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), bytes(16))),
    "a list": wire(described([entry()], bytes(8))),
    "an endless nest": wire(described(b"[" * 100_000)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_anything_else_is_refused(bad: ArrayRecord) -> None:
    with pytest.raises(ReplyError):
        decode_weights(bad)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_random_bytes_never_raise_anything_else(data: bytes, keep: int) -> None:
    for candidate in (data, GOOD[:keep] + data, GOOD[:keep] + data + GOOD[keep + len(data) :]):
        with suppress(ReplyError):
            for value in decode_weights(wire(candidate)).values():
                assert value.dtype in (np.float32, np.int64)
                assert value.nbytes <= len(candidate)


def test_layouts_are_compared_by_name_shape_and_dtype() -> None:
    expected = {"a": np.zeros((2, 3), np.float32), "n": np.array(0)}
    check_layout({"n": np.array(4), "a": np.ones((2, 3), np.float32)}, expected)
    wrong = {
        "the array n is missing": {"a": expected["a"]},
        "the array b is not one of the model": {**expected, "b": expected["a"]},
        "the array a has shape (3, 2) where the model has (2, 3)": {**expected, "a": np.zeros((3, 2), np.float32)},
        "the array n holds float32 where the model holds int64": {**expected, "n": np.array(0, np.float32)},
    }
    for text, weights in wrong.items():
        with pytest.raises(ReplyError, match=f"^{re.escape(text)}$"):
            check_layout(weights, expected)


def test_a_model_takes_its_weights_and_no_others() -> None:
    model, weights = build(TINY_MODEL), tiny_weights(seed=3)
    load_weights(model, decode_weights(encode_weights(weights)))
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, weights[name])
    with pytest.raises(ReplyError, match="missing"):
        load_weights(model, {})


def test_batch_norm_buffers_are_told_from_parameters() -> None:
    model = build(TINY_MODEL)
    buffers = {name for name, _ in model.named_buffers()}
    assert buffers
    assert {name for name in weights_of(model) if is_buffer(name)} == buffers


def test_foreign_text_is_made_printable() -> None:
    assert printable("a\x1b[31m\nb") == "a?[31m?b"
    assert printable("x" * 300, 10) == "x" * 9 + "…"
