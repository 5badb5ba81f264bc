"""How good one predicted segmentation is: Dice, HD95 in mm and surface Dice of each structure, equal to MONAI's.

With P and T the predicted and true voxels, ∂P and ∂T their surfaces (voxels with a 6-neighbour outside the mask; what
lies beyond the image is outside), and distances in mm between the centres of surface voxels:

    Dice         = 2 |P ∩ T| / (|P| + |T|)
    HD95         = max of the 95th percentiles of d(∂P → ∂T) and d(∂T → ∂P)
    surface Dice = share of the voxels of ∂P and ∂T that lie within the tolerance of the other surface
                   (Nikolov et al., JMIR 2021; each surface voxel counts once, whatever its area)

Promises: a structure that is missing has the score that the protocol defines, and a crop that only saves time.
"""

import math
from dataclasses import dataclass

import numpy as np

from segformer3d.boxes import bounding_box
from segformer3d.errors import ConfigurationError
from segformer3d.lesions import LesionScore, score_lesions
from segformer3d.protocols import WHOLE_SCAN, MissingScore, Protocol
from segformer3d.surfaces import Mask, Spacing, hd95, surface_dice, surface_distances


@dataclass(frozen=True)
class StructureScore:
    """One structure of one case: Dice and surface Dice in [0, 1], HD95 in mm, NaN where it is undefined.

    `lesions` holds the scores lesion by lesion, where the protocol has them.
    """

    dice: float
    hd95_mm: float
    surface_dice: float
    lesions: LesionScore | None = None

    @property
    def lesion_dice(self) -> float:
        """The mean Dice over the lesions, NaN where the protocol has none."""
        return math.nan if self.lesions is None else self.lesions.dice

    @property
    def lesion_hd95_mm(self) -> float:
        """The mean HD95 over the lesions in mm, NaN where the protocol has none."""
        return math.nan if self.lesions is None else self.lesions.hd95_mm


def score_case(
    predicted: Mask, truth: Mask, spacing: Spacing, protocol: Protocol = WHOLE_SCAN
) -> tuple[StructureScore, ...]:
    """Score every structure of one case, in the image's own space.

    Args:
        predicted: boolean masks (S, X, Y, Z), one per structure; they may overlap.
        truth: boolean masks of the same shape.
        spacing: voxel size along X, Y and Z in mm.
        protocol: what a missing structure scores, the surface tolerance, and whether lesions are scored one by one.

    Raises:
        ConfigurationError: shapes differ, or spacing is not a length.
    """
    _check(predicted, truth, spacing)
    return tuple(_score(p, t, spacing, protocol) for p, t in zip(predicted, truth, strict=True))


def _check(predicted: Mask, truth: Mask, spacing: Spacing) -> None:
    if predicted.shape != truth.shape or truth.ndim != 4:
        raise ConfigurationError(
            f"predicted and true masks must have one shape (S, X, Y, Z), got {predicted.shape} and {truth.shape}"
        )
    if predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ConfigurationError(f"masks must be boolean, got {predicted.dtype} and {truth.dtype}")
    if len(spacing) != 3 or not all(math.isfinite(side) and side > 0 for side in spacing):
        raise ConfigurationError(f"spacing must be three lengths above 0 mm, got {spacing}")


def _score(predicted: Mask, truth: Mask, spacing: Spacing, protocol: Protocol) -> StructureScore:
    box = bounding_box(predicted | truth)
    p, t = predicted[box], truth[box]
    lesions = None if protocol.lesions is None else score_lesions(p, t, spacing, protocol.lesions)
    missing = _missing(bool(p.any()), bool(t.any()), protocol)
    if missing is not None:
        return StructureScore(missing.dice, missing.hd95_mm, missing.surface_dice, lesions)
    dice = 2 * np.count_nonzero(p & t) / (np.count_nonzero(p) + np.count_nonzero(t))
    forth, back = surface_distances(p, t, spacing)
    return StructureScore(dice, hd95(forth, back), surface_dice(forth, back, protocol.tolerance_mm), lesions)


def _missing(found: bool, present: bool, protocol: Protocol) -> MissingScore | None:
    """What a structure scores that is not in both masks."""
    if found and present:
        return None
    if found:
        return protocol.missing.invented
    return protocol.missing.missed if present else protocol.missing.both
