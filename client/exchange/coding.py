"""Weights as the bytes of a codec, and back: parameters by the codec, what a batch norm remembers as it is.

Arrays are taken in the order of their names; all parameters together are one vector of N values. The bytes are:

    exact    the first bytes of all values, their second, third and fourth ones
    half     steps, then both bytes likewise of values in [-1, 1] as float16
    int8, int4, int2   steps, then symbols
    sparse   steps and symbols of the values that are kept, then the gaps between their places

and last the buffers. Their number follows from the layout alone, but for the gaps, of which it follows the most.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.exchange import quantisation as q
from client.exchange import sparse
from client.exchange.quantisation import BLOCK, Floats, NotFiniteError
from client.exchange.settings import EXACT, HALF, LEVELS, SHARE, SPARSE, Codec
from client.weights import AnyArray, Weights, is_buffer
from segformer3d.errors import ReplyError

Bytes = NDArray[np.uint8]


def encode(weights: Weights, codec: Codec, key: Sequence[int]) -> list[bytes]:
    """Weights, or an update of them, as parts of alike bytes; random numbers for rounding derive from the key."""
    values = flat(weights)
    if codec.name == EXACT:
        parts = [_by_byte(values)]
    elif codec.name == HALF:
        parts = _halved(values)
    elif codec.name == SPARSE:
        places = sparse.largest_places(values, sparse.kept_of(values.size, SHARE))
        parts = [*_quantised(values[places], codec, key), sparse.gaps_of(places)]
    else:
        parts = _quantised(values, codec, key)
    return [*parts, b"".join(_little(weights[name]).tobytes() for name in _buffers(weights))]


def decode(body: bytes, codec: str, layout: Weights) -> Weights:
    """Weights of this layout out of the bytes that `encode` made, one part behind the other.

    Raises:
        ReplyError: they are not such bytes, or hold values that are not finite.
    """
    fewest, most = sizes(codec, layout)
    if not fewest <= len(body) <= most:
        raise ReplyError(f"it holds {len(body)} bytes where the model takes {_between(fewest, most)}")
    data = np.frombuffer(body, np.uint8)
    end = data.size - sum(layout[name].nbytes for name in _buffers(layout))
    count = sum(layout[name].size for name in _parameters(layout))
    buffers, start = {}, end
    for name in _buffers(layout):
        like = layout[name]
        buffers[name] = np.frombuffer(body, like.dtype.newbyteorder("<"), like.size, start).reshape(like.shape)
        start += like.nbytes
    return {**shaped(_values(data[:end], codec, count), layout), **buffers}


def sizes(codec: str, layout: Weights) -> tuple[int, int]:
    """The fewest and the most bytes that weights of this layout take."""
    count = sum(layout[name].size for name in _parameters(layout))
    buffers = sum(layout[name].nbytes for name in _buffers(layout))
    if codec == EXACT:
        return (4 * count + buffers,) * 2
    if codec == HALF:
        return (q.steps_bytes(count) + 2 * count + buffers,) * 2
    if codec == SPARSE:
        kept = sparse.kept_of(count, SHARE)
        fixed = _quantised_bytes(kept, codec) + buffers
        return fixed + sparse.fewest_gap_bytes(kept), fixed + sparse.most_gap_bytes(kept, count)
    return (_quantised_bytes(count, codec) + buffers,) * 2


def flat(weights: Weights) -> Floats:
    """All parameters one behind the other, in the order of their names: float32 (N,)."""
    parts = [weights[name].reshape(-1) for name in _parameters(weights)]
    return np.concatenate([np.empty(0, np.float32), *parts])


def shaped(values: Floats, layout: Weights) -> dict[str, AnyArray]:
    """Parameters of this layout out of one vector, as views of it."""
    found: dict[str, AnyArray] = {}
    start = 0
    for name in _parameters(layout):
        like = layout[name]
        found[name] = values[start : start + like.size].reshape(like.shape)
        start += like.size
    return found


def _values(data: Bytes, codec: str, count: int) -> Floats:
    if codec == EXACT:
        return np.ascontiguousarray(data.reshape(4, count).T).view("<f4").reshape(-1)
    if codec == HALF:
        return _doubled(data, count)
    if codec == SPARSE:
        kept = sparse.kept_of(count, SHARE)
        end = _quantised_bytes(kept, codec)
        values = np.zeros(count, np.float32)
        values[sparse.places_of(data[end:], kept, count)] = _dequantised(data[:end], codec, kept)
        return values
    return _dequantised(data, codec, count)


def _quantised(values: Floats, codec: Codec, key: Sequence[int]) -> list[bytes]:
    steps, symbols = q.quantise(values, codec, np.random.default_rng(list(key)))
    return [_little(steps).tobytes(), q.pack(symbols, LEVELS[codec.name])]


def _dequantised(data: Bytes, codec: str, count: int) -> Floats:
    end = q.steps_bytes(count)
    return q.dequantise(data[:end].view("<u2"), q.unpack(data[end:], count, LEVELS[codec]))


def _quantised_bytes(count: int, codec: str) -> int:
    return q.steps_bytes(count) + q.symbols_bytes(count, LEVELS[codec])


def _halved(values: Floats) -> list[bytes]:
    """Values over the largest of their block, which keeps float16 clear of the small numbers that it has few of."""
    padded = np.zeros(q.blocks_of(values.size) * BLOCK, np.float32)
    padded[: values.size] = values
    blocks = padded.reshape(-1, BLOCK)
    steps = q.upper_half(q.largest_of(blocks))
    width = q.widths_of(steps)[:, None]
    with np.errstate(invalid="ignore"):
        blocks /= np.where(width > 0, width, np.float32(1))
        halves = padded[: values.size].astype("<f2")
    return [_little(steps).tobytes(), _by_byte(halves)]


def _doubled(data: Bytes, count: int) -> Floats:
    end = q.steps_bytes(count)
    width = q.widths_of(data[:end].view("<u2"))
    padded = np.zeros(width.size * BLOCK, np.float32)
    padded[:count] = np.ascontiguousarray(data[end:].reshape(2, count).T).view("<f2").reshape(-1)
    blocks = padded.reshape(-1, BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        blocks *= width[:, None]
    if not np.isfinite(padded).all():
        raise NotFiniteError("it holds values that are not finite")
    return padded[:count]


def _by_byte(values: NDArray[np.generic]) -> bytes:
    """All first bytes, then all second ones: those of signs and exponents repeat themselves, and are coded well."""
    data = _little(values)
    return np.ascontiguousarray(data.view(np.uint8).reshape(data.size, data.itemsize).T).tobytes()


def _little(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


def _parameters(weights: Weights) -> list[str]:
    return sorted(name for name in weights if not is_buffer(name))


def _buffers(weights: Weights) -> list[str]:
    return sorted(name for name in weights if is_buffer(name))


def _between(fewest: int, most: int) -> str:
    return str(fewest) if fewest == most else f"{fewest} to {most}"
