"""Weights on the wire. Oracles: the arrays that were put in; NumPy's own writer; nothing is ever unpickled."""

import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from client.weights import (
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

from .tiny_site import TINY_MODEL, tiny_weights

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "b.num_batches_tracked": np.array(3),
    "none": np.zeros((0, 4), np.float32),
}


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def record(
    data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (2,), stype: str = "numpy.ndarray"
) -> ArrayRecord:
    return ArrayRecord({"a": Array(dtype, shape, stype, data)})


GOOD = npy(np.ones(2, np.float32))


def test_what_goes_in_comes_out() -> None:
    decoded = decode_weights(encode_weights(ARRAYS))
    assert set(decoded) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(decoded[name], array)
        assert (decoded[name].dtype, decoded[name].shape) == (array.dtype, array.shape)


def test_decoding_does_not_copy() -> None:
    assert not decode_weights(record(GOOD))["a"].flags.owndata


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    bomb = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    for data in (npy(bomb, allow_pickle=True), pickle.dumps(bomb)):
        for dtype in ("object", "float32"):
            with pytest.raises(ReplyError, match="never unpickled"):
                decode_weights(record(data, dtype, (1,)))
    assert not (tmp_path / "exploded").exists()


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2, np.float32))
    return buffer.getvalue()


BAD = {
    "empty": record(b""),
    "garbage": record(b"\x00garbage" * 20),
    "archive": record(archive()),
    "cut": record(GOOD[:-1]),
    "too long": record(GOOD + b"\0"),
    "header only": record(GOOD[:128]),
    "half a header": record(GOOD[:40]),
    "another serialisation": record(GOOD, stype="pickle"),
    "announced as another shape": record(GOOD, shape=(1, 2)),
    "announced as another dtype": record(GOOD, dtype="int64"),
    "float64": record(npy(np.ones(2)), dtype="float64"),
    "float16": record(npy(np.ones(2, np.float16)), dtype="float16"),
    "big-endian": record(npy(np.ones(2, ">f4")), dtype=">f4"),
    "bool": record(npy(np.ones(2, bool)), dtype="bool"),
    "strings": record(npy(np.array(["ab", "cd"])), dtype="<U2"),
    "records": record(npy(np.zeros(2, [("x", "<f4")])), dtype="[('x', '<f4')]"),
    "format 2.0": record(GOOD.replace(b"NUMPY\x01", b"NUMPY\x02")),
    "terabytes": record(GOOD.replace(b"(2,), }        ", b"(999999999999,), }"[:19]), shape=(999999999999,)),
    "code in the header": record(GOOD.replace(b"'shape': (2,)", b"'shape': (1+1)")),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_anything_else_is_refused(bad: ArrayRecord) -> None:
    with pytest.raises(ReplyError, match="the array a "):
        decode_weights(bad)


@given(st.binary(max_size=200), st.integers(0, 140), st.sampled_from(["float32", "int64", "object"]))
def test_random_bytes_never_raise_anything_else(data: bytes, keep: int, dtype: str) -> None:
    for candidate in (data, GOOD[:keep] + data, GOOD[:keep] + data + GOOD[keep + len(data) :]):
        try:
            decoded = decode_weights(record(candidate, dtype))["a"]
        except ReplyError:
            continue
        assert decoded.shape == (2,)
        assert decoded.dtype == dtype


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
