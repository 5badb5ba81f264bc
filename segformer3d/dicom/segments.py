"""Masks from DICOM segmentations (SEG), on the grid of the series that they are about; highdicom reads them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segformer3d.dicom.geometry import Grid
from segformer3d.dicom.headers import segments_of
from segformer3d.dicom.instances import Instance
from segformer3d.dicom.library import refusing
from segformer3d.errors import CaseError

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

Mask = NDArray[np.bool_]

_FRACTIONAL = "the segmentation holds fractions, and nothing says from which on a voxel counts; export it as binary"
_DAMAGED = "the segmentation is truncated or damaged; export it again"
_NO_VOLUME = "the frames of the segmentation are no even stack of slices; export it on the grid of the series"


def read_segments(instance: Instance, grid: Grid, chosen: Sequence[Sequence[int]]) -> list[Mask]:
    """One mask (columns, rows, slices) for each entry of `chosen`: the union of segments.

    Args:
        instance: a segmentation.
        grid: of the series that it is about.
        chosen: places in `instance.structures`, for each mask; none gives an empty mask.

    Raises:
        CaseError: it is damaged, holds fractions, or lies on another grid.
    """
    from highdicom.seg import segread

    with refusing(_DAMAGED):
        segmentation = segread(instance.path)
        numbers = [int(item.SegmentNumber) for item in segments_of(segmentation)]
        fractional = segmentation.segmentation_type.value == "FRACTIONAL"
    if fractional:
        raise CaseError(_FRACTIONAL)
    return [_union(segmentation, [numbers[place] for place in places], grid) for places in chosen]


def _union(segmentation: "Segmentation", numbers: Sequence[int], grid: Grid) -> Mask:
    mask = np.zeros(grid.shape, np.bool_)
    for number in numbers:
        with refusing(_NO_VOLUME):
            volume = segmentation.get_volume(segment_numbers=[number])
        mask |= grid.place(volume.array[..., 0] != 0, np.asarray(volume.affine, np.float64))
    return mask
