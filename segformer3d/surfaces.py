"""How far two surfaces lie apart: the distance of every surface voxel to the nearest of the other mask's.

The surface of a mask is its voxels with a 6-neighbour outside (what lies beyond the image is outside); distances are in
mm between centres. Promises: the distances are exact, and cost what the surfaces measure and not the volume, so that a
few false voxels far away do not make a case slow: a tree of one surface (Bentley 1975) is asked for the nearest to each
voxel of the other, where a distance transform would visit every voxel of the box around both.
"""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
Distances = NDArray[np.float64]

PERCENTILE = 95


def surface_distances(predicted: Mask, truth: Mask, spacing: Spacing) -> tuple[Distances, Distances]:
    """The distances in mm from each surface voxel of the prediction to the truth's surface, and the way back.

    Args:
        predicted: a mask (X, Y, Z) with at least one voxel.
        truth: another of the same shape.
        spacing: voxel size along X, Y and Z in mm.
    """
    from scipy.spatial import cKDTree

    points = [np.argwhere(_surface(mask)) * np.asarray(spacing, np.float64) for mask in (predicted, truth)]
    forth, back = (cKDTree(points[1 - i], leafsize=32, balanced_tree=False).query(points[i])[0] for i in (0, 1))
    return forth, back


def hd95(forth: Distances, back: Distances) -> float:
    """The larger of the two directed 95th percentiles, in mm."""
    return float(max(np.percentile(forth, PERCENTILE), np.percentile(back, PERCENTILE)))


def surface_dice(forth: Distances, back: Distances, tolerance_mm: float) -> float:
    """The share of the surface voxels of both masks that lie within the tolerance of the other surface."""
    near = np.count_nonzero(forth <= tolerance_mm) + np.count_nonzero(back <= tolerance_mm)
    return near / (forth.size + back.size)


def _surface(mask_XYZ: Mask) -> Mask:
    inside_XYZ = mask_XYZ.copy()
    for axis in range(mask_XYZ.ndim):
        mask, inside = np.moveaxis(mask_XYZ, axis, 0), np.moveaxis(inside_XYZ, axis, 0)
        inside[1:] &= mask[:-1]
        inside[:-1] &= mask[1:]
        inside[[0, -1]] = False
    return mask_XYZ & ~inside_XYZ
