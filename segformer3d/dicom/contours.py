"""Masks from the contours of a structure set (RTSTRUCT), on the grid of the series that they were drawn on.

A voxel belongs to a contour if its centre lies inside (even-odd rule, matplotlib's `Path`): no voxel is added along the
edge, as painting polygons on whole pixels does. Of several contours of one structure on one slice, one inside another
is a hole; side by side they add up. Contours that cross are refused, since the standard does not say what they mean
(DICOM PS3.3 C.8.8.6.3).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segformer3d.dicom.geometry import Grid, Points
from segformer3d.dicom.instances import Instance
from segformer3d.dicom.library import read_header, refusing
from segformer3d.errors import CaseError

if TYPE_CHECKING:
    from pydicom import Dataset

Mask = NDArray[np.bool_]

# A contour may be off the plane of its slice by this share of the distance between slices.
PLANE_TOLERANCE = 0.1
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_DAMAGED = "the structure set is truncated or damaged; export it again"


def read_contours(instance: Instance, grid: Grid, chosen: Sequence[Sequence[int]]) -> list[Mask]:
    """One mask (columns, rows, slices) for each entry of `chosen`: the union of structures.

    Args:
        instance: a structure set.
        grid: of the series that it is about.
        chosen: places in `instance.structures`, for each mask; none gives an empty mask.

    Raises:
        CaseError: it is damaged, or its contours do not lie in the slices of the series or cross each other.
    """
    with refusing(_DAMAGED):
        header = read_header(instance.path, ("StructureSetROISequence", "ROIContourSequence"))
        numbers = [int(item.ROINumber) for item in header.StructureSetROISequence]
        contours = {
            int(item.ReferencedROINumber): _areas(item.get("ContourSequence") or [])
            for item in header.ROIContourSequence
        }
    return [_union([contours.get(numbers[place], []) for place in places], grid) for places in chosen]


def fill(polygon: Points, shape: tuple[int, int]) -> Mask:
    """The voxels (columns, rows) whose centres lie inside a polygon (n, 2) in voxel indices."""
    from matplotlib.path import Path as Outline

    mask = np.zeros(shape, np.bool_)
    low = np.clip(np.ceil(polygon.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.floor(polygon.max(axis=0)) + 1, 0, shape).astype(int)
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    centres = np.stack(np.meshgrid(*(np.arange(side.start, side.stop) for side in box), indexing="ij"), axis=-1)
    mask[box] = Outline(polygon, closed=False).contains_points(centres.reshape(-1, 2)).reshape(centres.shape[:2])
    return mask


def _areas(contours: "Iterable[Dataset]") -> list[Points]:
    """The points (n, 3), mm in LPS, of the contours that enclose an area; marks and lines have none."""
    return [
        np.array(contour.ContourData, np.float64).reshape(-1, 3)
        for contour in contours
        if str(contour.ContourGeometricType) in _AREAS and len(contour.ContourData) >= 9
    ]


def _union(structures: Sequence[Sequence[Points]], grid: Grid) -> Mask:
    mask = np.zeros(grid.shape, np.bool_)
    for contours in structures:
        for number, polygons in _by_slice(contours, grid).items():
            mask[:, :, number] |= _fill_all(polygons, grid.shape[:2])
    return mask


def _by_slice(contours: Sequence[Points], grid: Grid) -> dict[int, list[Points]]:
    """Polygons in voxel indices (column, row), by the slice that they lie in."""
    found: defaultdict[int, list[Points]] = defaultdict(list)
    for contour in contours:
        indices = grid.indices(contour)
        number = round(float(indices[:, 2].mean()))
        if not np.isfinite(indices).all() or np.abs(indices[:, 2] - number).max() > PLANE_TOLERANCE:
            raise CaseError("a contour does not lie in a slice of the series; draw it on the slices of this series")
        if not 0 <= number < grid.shape[2]:
            raise CaseError("a contour lies beyond the slices of the series; import all slices that it was drawn on")
        found[number].append(indices[:, :2])
    return dict(found)


def _fill_all(polygons: Sequence[Points], shape: tuple[int, int]) -> Mask:
    """Several contours on one slice together: inside an even number of them is outside."""
    masks = [fill(polygon, shape) for polygon in _different(polygons)]
    for index, one in enumerate(masks):
        for other in masks[:index]:
            shared = one & other
            if shared.any() and (shared != one).any() and (shared != other).any():
                raise CaseError("contours of one structure cross on a slice; correct them where they were drawn")
    return np.logical_xor.reduce(masks)  # type: ignore[no-any-return]


def _different(polygons: Sequence[Points]) -> list[Points]:
    """The same contour stored twice would cancel itself."""
    return list({polygon.tobytes(): polygon for polygon in polygons}.values())
