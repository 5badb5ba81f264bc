"""Boxes of a volume: one slice for each axis."""

import numpy as np
from numpy.typing import NDArray

Place = tuple[slice, slice, slice]
WHOLE: Place = (slice(None), slice(None), slice(None))


def bounding_box(mask: NDArray[np.bool_], margin: int = 1) -> tuple[slice, ...]:
    """The box around a mask, wider by `margin` voxels where the volume goes on; all of it for an empty mask."""
    if not mask.any():
        return (slice(None),) * mask.ndim
    axes = range(mask.ndim)
    hits = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(max(int(hit[0]) - margin, 0), int(hit[-1]) + 1 + margin) for hit in hits)
