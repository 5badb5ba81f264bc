"""Where the voxels of a stack of planes lie, in float64.

DICOM counts mm in LPS (x to the left, y to the back, z up), NIfTI in RAS. Voxel (i, j, k) is column i, row j, slice k;
with row direction r, column direction c (unit vectors), column and row spacing dx and dy, first position p0 and step s
from slice to slice,

    LPS(i, j, k) = p0 + dx i r + dy j c + k s,    s = (last position - first position) / (slices - 1)

(DICOM PS3.3 C.7.6.2.1.1). The step comes from positions alone: slice thickness is another matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segformer3d.dicom.instances import Plane
from segformer3d.errors import CaseError

Points = NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Two grids are one when no corner of one lies further from the other's than this share of a voxel.
GRID_TOLERANCE_VOXELS = 0.05


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of a volume.

    Attributes:
        shape: columns, rows, slices.
        affine: (4, 4), voxel indices (column, row, slice) to mm in RAS.
        frame_of_reference: UID of the space that the mm are counted in; positions of two spaces do not compare.
    """

    shape: tuple[int, int, int]
    affine: Points
    frame_of_reference: str

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along columns, rows and slices."""
        x, y, z = (float(mm) for mm in np.linalg.norm(self.affine[:3, :3], axis=0))
        return (x, y, z)

    def indices(self, points_lps: Points) -> Points:
        """Points (n, 3) in mm, LPS, to voxel indices (n, 3), not rounded."""
        return _apply(self._to_indices() @ LPS_TO_RAS, points_lps)

    def _to_indices(self) -> Points:
        """(4, 4), mm in RAS to voxel indices."""
        return np.asarray(np.linalg.inv(self.affine), np.float64)

    def same(self, other: "Grid") -> bool:
        """Whether voxels of both are the same places."""
        if self.shape != other.shape or self.frame_of_reference != other.frame_of_reference:
            return False
        moved = self._to_indices() @ other.affine
        ends = corners(self.shape)
        return bool(np.abs(_apply(moved, ends) - ends).max() <= GRID_TOLERANCE_VOXELS)

    def place(self, mask: NDArray[np.bool_], affine_lps: Points) -> NDArray[np.bool_]:
        """A mask on another grid with the same voxels, whatever its axes and its extent, on this one.

        Args:
            mask: three axes in any order.
            affine_lps: (4, 4), its voxel indices to mm in LPS.

        Raises:
            CaseError: its voxels lie between those of this grid, or some that are set lie outside.
        """
        moved = self._to_indices() @ LPS_TO_RAS @ affine_lps
        whole = np.rint(moved)
        drift = np.abs(_apply(moved - whole, corners(mask.shape))).max()
        if drift > GRID_TOLERANCE_VOXELS or not _is_reordering(whole[:3, :3]):
            raise CaseError("its voxels are not those of the series; draw or export it on the grid of the series")
        found = np.rint(_apply(whole, np.argwhere(mask).astype(np.float64))).astype(np.intp)
        if ((found < 0) | (found >= self.shape)).any():
            raise CaseError("it reaches beyond the slices of the series; import all slices that it was drawn on")
        placed = np.zeros(self.shape, np.bool_)
        placed[tuple(found.T)] = True
        return placed


def make_grid(planes: Sequence[Plane], frame_of_reference: str) -> Grid:
    """The grid of planes that are in order and were found to be sound (`checks`)."""
    first, positions = planes[0], positions_of(planes)
    affine = np.eye(4)
    affine[:3, 0] = direction(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = direction(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(planes) - 1)
    affine[:3, 3] = positions[0]
    rows, columns = first.size
    return Grid((columns, rows, len(planes)), LPS_TO_RAS @ affine, frame_of_reference)


def positions_of(planes: Sequence[Plane]) -> Points:
    """(n, 3) in mm, LPS."""
    return np.array([plane.position for plane in planes], np.float64)


def normal_of(plane: Plane) -> Points:
    """The direction that slices are stacked in, as a unit vector: rows x columns."""
    return direction(np.cross(plane.orientation[:3], plane.orientation[3:]))


def direction(vector: Sequence[float] | Points) -> Points:
    """A vector of length 1."""
    return np.asarray(vector, np.float64) / np.linalg.norm(vector)


def corners(shape: Sequence[int]) -> Points:
    """The eight corner voxels (8, 3) of a volume."""
    return np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), np.float64).reshape(3, -1).T


def _is_reordering(matrix: Points) -> bool:
    """Whether a matrix of whole numbers only swaps and reverses axes."""
    return bool(np.abs(matrix).sum() == 3 and abs(round(np.linalg.det(matrix))) == 1)


def _apply(affine: Points, points: Points) -> Points:
    return points @ affine[:3, :3].T + affine[:3, 3]
