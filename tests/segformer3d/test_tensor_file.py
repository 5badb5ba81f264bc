"""Files of arrays: the safetensors library reads them back as they were, and is the only reader."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from safetensors import safe_open
from safetensors.numpy import load_file

from segformer3d.tensor_file import write_tensors

DTYPES = st.sampled_from([np.float32, np.float64, np.int64])
ARRAYS = DTYPES.flatmap(lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, min_side=0)))


@given(arrays=st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), ARRAYS, max_size=5))
def test_the_library_reads_what_was_written(arrays: dict[str, np.ndarray], tmp_path_factory: object) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "arrays.safetensors"  # type: ignore[attr-defined]
    write_tensors(path, arrays, {"told": "Grüße"})
    read = load_file(path)
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()
    with safe_open(path, "np") as stored:
        assert stored.metadata() == {"told": "Grüße"}


def test_equal_arrays_make_equal_files_whatever_their_order_and_layout(tmp_path: Path) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4)
    write_tensors(tmp_path / "one", {"a": a, "b": b}, {})
    write_tensors(tmp_path / "other", {"b": b, "a": np.asfortranarray(a)}, {})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_kind_of_number_that_is_not_known_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="complex64"):
        write_tensors(tmp_path / "x", {"a": np.zeros(1, np.complex64)}, {})
    assert not list(tmp_path.iterdir())
