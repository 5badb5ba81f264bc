"""Boxes of a volume: one slice for each axis."""

import numpy as np
from numpy.typing import NDArray

Place = tuple[slice, slice, slice]
WHOLE: Place = (slice(None), slice(None), slice(None))


def bounding_box(mask: NDArray[np.bool_], margin: int = 1) -> tuple[slice, ...]:
    """The box around a mask, wider by `margin` voxels where the volume goes on; all of it for an empty mask."""
    sides = []
    rest: NDArray[np.bool_] = mask
    for _ in range(mask.ndim):
        hit = np.flatnonzero(rest.any(axis=tuple(range(1, rest.ndim))))
        if not hit.size:
            return (slice(None),) * mask.ndim
        first, last = int(hit[0]), int(hit[-1])
        sides.append(slice(max(first - margin, 0), last + 1 + margin))
        rest = np.asarray(rest[first : last + 1].any(axis=0))  # the other axes, with less and less to read
    return tuple(sides)
