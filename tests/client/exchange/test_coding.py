"""Weights to bytes and back. Oracles: the weights themselves, bounds, and the sizes that the layout gives."""

import numpy as np
import pytest

from client.exchange.coding import decode, encode, flat, shaped, sizes
from client.exchange.settings import CODECS, EXACT, HALF, LEVELS, SHARE, SPARSE, Codec
from client.weights import Weights, check_layout, is_buffer
from segformer3d.errors import ReplyError

from ..tiny_site import tiny_weights

WEIGHTS = tiny_weights()


def arrived(codec: str, weights: Weights = WEIGHTS) -> Weights:
    return decode(b"".join(encode(weights, Codec(codec), (1,))), codec, weights)


@pytest.mark.parametrize("codec", CODECS)
def test_layout_and_buffers_arrive_as_they_were(codec: str) -> None:
    weights = {name: value + 3 if is_buffer(name) else value for name, value in WEIGHTS.items()}
    found = arrived(codec, weights)
    check_layout(found, weights)
    buffers = [name for name in weights if is_buffer(name)]
    assert len(buffers) >= 3
    assert all(np.array_equal(found[name], weights[name]) for name in buffers)


def test_exact_is_exact_to_the_last_bit() -> None:
    weights = dict(WEIGHTS)
    name = next(name for name in weights if not is_buffer(name))
    odd = np.array([0.0, -0.0, 1e-45, -3.4e38, 1 / 3, 2**-126], np.float32)
    weights[name] = np.resize(odd, weights[name].shape)
    found = arrived(EXACT, weights)
    assert all(found[n].tobytes() == np.ascontiguousarray(weights[n]).tobytes() for n in weights)


def test_half_keeps_eleven_bits_of_the_largest_of_a_block() -> None:
    tiny = {name: value if is_buffer(name) else value * np.float32(1e-6) for name, value in WEIGHTS.items()}
    for weights in (WEIGHTS, tiny):
        before, after = flat(weights), flat(arrived(HALF, weights))
        assert (np.abs(after - before) <= 2**-11 * np.abs(before).max()).all()
        assert np.square(after - before).sum() <= 1e-6 * np.square(before).sum()


def test_sparse_keeps_the_largest_twentieth() -> None:
    before, after = flat(WEIGHTS), flat(arrived(SPARSE))
    kept = np.flatnonzero(after)
    assert len(kept) <= np.ceil(SHARE * before.size)
    assert np.abs(before[kept]).min() >= np.sort(np.abs(before))[-int(np.ceil(SHARE * before.size))]
    assert np.abs(after[kept] - before[kept]).max() <= np.abs(before).max() / LEVELS[SPARSE]


@pytest.mark.parametrize("codec", CODECS)
def test_the_layout_tells_the_size(codec: str) -> None:
    fewest, most = sizes(codec, WEIGHTS)
    body = b"".join(encode(WEIGHTS, Codec(codec), (1,)))
    assert fewest <= len(body) <= most
    assert (fewest == most) == (codec != SPARSE)
    for wrong in (body[: fewest - 1], body + bytes(most + 1 - len(body))):
        with pytest.raises(ReplyError, match=r"bytes where the model takes"):
            decode(wrong, codec, WEIGHTS)


@pytest.mark.parametrize("codec", [name for name in CODECS if name != EXACT])
def test_weights_that_are_not_finite_are_refused(codec: str) -> None:
    weights = {
        name: np.full_like(value, np.nan) if value.dtype == np.float32 else value for name, value in WEIGHTS.items()
    }
    with pytest.raises(ReplyError, match="not finite"):
        arrived(codec, weights)


def test_one_vector_and_its_arrays() -> None:
    parameters = {name: value for name, value in WEIGHTS.items() if not is_buffer(name)}
    found = shaped(flat(WEIGHTS), WEIGHTS)
    assert set(found) == set(parameters)
    assert all(np.array_equal(found[name], value) for name, value in parameters.items())


def test_a_model_without_parameters_is_no_bytes() -> None:
    for codec in CODECS:
        assert not any(encode({}, Codec(codec), (1,)))
        assert decode(b"", codec, {}) == {}
