"""How good one predicted segmentation is: Dice, HD95 in mm and surface Dice of each structure, by MONAI's functions.

With P and T the predicted and true voxels, ∂P and ∂T their surfaces (voxels with a 6-neighbour outside the mask; what
lies beyond the image is outside), and distances in mm between the centres of surface voxels:

    Dice         = 2 |P ∩ T| / (|P| + |T|)
    HD95         = max of the 95th percentiles of d(∂P → ∂T) and d(∂T → ∂P)
    surface Dice = share of the voxels of ∂P and ∂T that lie within the tolerance of the other surface
                   (Nikolov et al., JMIR 2021; each surface voxel counts once, whatever its area)

Promises: a structure that is missing has a defined score (`EMPTY_MASK_RULES`), and a crop that only saves time.
"""

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segformer3d.errors import ConfigurationError

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

TOLERANCE_MM = 1.0
PERCENTILE = 95
EMPTY_MASK_RULES = (
    "A structure missing from both prediction and truth scores Dice 1 and surface Dice 1; missing from one of them, "
    "0 and 0. HD95 is undefined in either event: it is excluded from the mean and counted."
)


@dataclass(frozen=True)
class StructureScore:
    """One structure of one case: Dice and surface Dice in [0, 1], HD95 in mm, NaN where it is undefined."""

    dice: float
    hd95_mm: float
    surface_dice: float


def score_case(
    predicted: Mask, truth: Mask, spacing: Spacing, tolerance_mm: float = TOLERANCE_MM
) -> tuple[StructureScore, ...]:
    """Score every structure of one case, in the image's own space.

    Args:
        predicted: boolean masks (S, X, Y, Z), one per structure; they may overlap.
        truth: boolean masks of the same shape.
        spacing: voxel size along X, Y and Z in mm.
        tolerance_mm: how far a surface may lie from the other and still count as right, in mm.

    Raises:
        ConfigurationError: shapes differ, or spacing or tolerance is not a length.
    """
    _check(predicted, truth, spacing, tolerance_mm)
    return tuple(_score(p, t, spacing, tolerance_mm) for p, t in zip(predicted, truth, strict=True))


def _check(predicted: Mask, truth: Mask, spacing: Spacing, tolerance_mm: float) -> None:
    if predicted.shape != truth.shape or truth.ndim != 4:
        raise ConfigurationError(
            f"predicted and true masks must have one shape (S, X, Y, Z), got {predicted.shape} and {truth.shape}"
        )
    if predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ConfigurationError(f"masks must be boolean, got {predicted.dtype} and {truth.dtype}")
    if len(spacing) != 3 or not all(math.isfinite(side) and side > 0 for side in spacing):
        raise ConfigurationError(f"spacing must be three lengths above 0 mm, got {spacing}")
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigurationError(f"the surface tolerance must be 0 mm or more, got {tolerance_mm}")


def _score(predicted: Mask, truth: Mask, spacing: Spacing, tolerance_mm: float) -> StructureScore:
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice  # two seconds to import

    found, present = bool(predicted.any()), bool(truth.any())
    if not (found and present):
        overlap = 1.0 if found == present else 0.0
        return StructureScore(overlap, math.nan, overlap)
    box = bounding_box(predicted | truth)
    p, t = _as_batch(predicted[box]), _as_batch(truth[box])
    sides = [float(side) for side in spacing]
    with _without_monai_own_deprecation():
        hd95 = compute_hausdorff_distance(p, t, include_background=True, percentile=PERCENTILE, spacing=sides)
        surface = compute_surface_dice(p, t, [tolerance_mm], include_background=True, spacing=sides)
    return StructureScore(float(compute_dice(p, t)), float(hd95), float(surface))


def bounding_box(mask: Mask, margin: int = 1) -> tuple[slice, ...]:
    """The box around a mask, wider by `margin` voxels where the volume goes on; all of it for an empty mask."""
    if not mask.any():
        return (slice(None),) * mask.ndim
    axes = range(mask.ndim)
    hits = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(max(int(hit[0]) - margin, 0), int(hit[-1]) + 1 + margin) for hit in hits)


def _as_batch(mask: Mask) -> torch.Tensor:
    # A copy, because PyTorch takes no array with negative strides, and turning a volume to RAS makes such views.
    return torch.from_numpy(np.ascontiguousarray(mask))[None, None]


# `warnings.catch_warnings` swaps a list that all threads share, and several sites may be scored at once.
_WARNINGS = threading.Lock()


@contextmanager
def _without_monai_own_deprecation() -> Iterator[None]:
    """MONAI 1.6 passes an argument to itself that it has deprecated; the warning tells a user nothing."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*get_mask_edges:always_return_as_numpy", FutureWarning)
        yield
