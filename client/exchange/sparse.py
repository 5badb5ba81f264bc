"""Sparse changes: the places of the largest values as gaps, a byte each, and the values quantised.

A gap counts the values between one place and the next: gap = 255 a + b with b < 255 is written as `a` bytes of 255 and
one of b. With one value in twenty kept, nearly every gap is one byte.
"""

import numpy as np
from numpy.typing import NDArray

from client.exchange.quantisation import Floats
from segformer3d.errors import ReplyError

_ON = 255  # the gap goes on in the next byte
Places = NDArray[np.int64]


def kept_of(count: int, share: float) -> int:
    """How many of so many values are kept."""
    return min(count, int(np.ceil(share * count)))


def largest_places(values: Floats, kept: int) -> Places:
    """Where the largest values are by size, in order; of equal ones the first. What is no number is largest."""
    if not kept:
        return np.empty(0, np.int64)
    sizes = np.nan_to_num(np.abs(values), copy=False, nan=np.inf)
    least = np.partition(sizes, sizes.size - kept)[sizes.size - kept]
    above, equal = np.flatnonzero(sizes > least), np.flatnonzero(sizes == least)
    return np.sort(np.concatenate([above, equal[: kept - above.size]]))


def gaps_of(places: Places) -> bytes:
    """Places in rising order as bytes."""
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(gaps // _ON + 1)
    written = np.full(int(ends[-1]) if ends.size else 0, _ON, np.uint8)
    written[ends - 1] = gaps % _ON
    return written.tobytes()


def places_of(gaps: NDArray[np.uint8], kept: int, count: int) -> Places:
    """So many places among so many values out of bytes that `gaps_of` made.

    Raises:
        ReplyError: they are others.
    """
    ends = np.flatnonzero(gaps != _ON)
    if ends.size != kept or (gaps.size and gaps[-1] == _ON):
        raise ReplyError(f"it must hold the places of {kept} values")
    places = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(kept)
    if kept and places[-1] >= count:
        raise ReplyError("it holds places beyond the model's values")
    return places


def fewest_gap_bytes(kept: int) -> int:
    """Bytes of so many places, if all lie close together."""
    return kept


def most_gap_bytes(kept: int, count: int) -> int:
    """Bytes of so many places among so many values, wherever they lie."""
    return kept + count // _ON
