"""The label of a case: how large each structure is, how many pieces it has, and whether it lies where the image is."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segformer3d.boxes import nonzero_box
from segformer3d.data_check.facts import StructureFacts
from segformer3d.task import Task
from segformer3d.volumes import StoredCase, spacing_of

_EDGES = (("left", "right"), ("back", "front"), ("bottom", "top"))  # the low and the high end of X, Y and Z
_CORNERS = np.ones((3, 3, 3))  # pieces that touch at a corner are one

Mask = NDArray[np.bool_]


def measure_structures(
    stored: StoredCase, backgrounds: Sequence[float | None], task: Task
) -> tuple[StructureFacts, ...] | None:
    """The facts of each structure of the task, or None where the case has no label.

    Args:
        stored: the case.
        backgrounds: the value that stands for the background of each contrast, None where none does.
        task: what its structures are.
    """
    if stored.label is None:
        return None
    box = nonzero_box(stored.label)
    label, empty = stored.label[box], _background_in(stored, box, backgrounds)
    voxel_ml = math.prod(spacing_of(stored.affine)) / 1000
    found = []
    for structure in task.structures:
        mask = np.isin(label, structure.labels)
        voxels = int(np.count_nonzero(mask))
        pieces, stray = _pieces(mask)
        outside = np.count_nonzero(mask & empty) / voxels if voxels else 0.0
        edges = _edges(mask, box, stored.shape)
        found.append(StructureFacts(structure.name, voxels * voxel_ml, pieces, stray, edges, outside))
    return tuple(found)


def _background_in(stored: StoredCase, box: tuple[slice, ...], backgrounds: Sequence[float | None]) -> Mask:
    """Where a part of the image is background in every contrast."""
    parts = [channel[box] for channel in stored.channels]
    empty = np.ones(parts[0].shape, np.bool_)
    for part, background in zip(parts, backgrounds, strict=True):
        empty &= False if background is None else part == np.asarray(background).astype(part.dtype)
    return empty


def _pieces(mask: Mask) -> tuple[int, float]:
    """How many pieces a structure has, and the share of its voxels outside the largest."""
    numbered, count = ndimage.label(mask, _CORNERS)
    if count < 2:
        return count, 0.0
    sizes = np.bincount(numbered.ravel())[1:]
    return count, 1 - float(sizes.max() / sizes.sum())


def _edges(mask: Mask, box: tuple[slice, ...], shape: Sequence[int]) -> tuple[str, ...]:
    touched = []
    for axis, (names, size) in enumerate(zip(_EDGES, shape, strict=True)):
        if not mask.size:
            continue
        ends: tuple[Any, Any] = (mask.take(0, axis), mask.take(-1, axis))
        at_rim = (box[axis].start == 0, box[axis].stop == size)
        touched += [name for name, end, rim in zip(names, ends, at_rim, strict=True) if rim and end.any()]
    return tuple(touched)
