"""Dice and HD95 lesion by lesion, as BraTS 2023 and later score: a small lesion counts as much as a large one.

The rule of the challenges (github.com/rachitsaluja/BraTS-2023-Metrics), which differ in two numbers
(`segformer3d.protocols.LesionRule`), for one region of one case:

1. The truth is dilated (18 neighbours, `dilation_voxels` times); true voxels in one 26-connected component of that are
   one lesion. The truth itself is not changed.
2. The 26-connected components of the prediction that touch a dilated lesion are its prediction, together; a component
   may touch several.
3. Each lesion larger than `smallest_mm3` gets the Dice and HD95 of itself and its prediction; a missed one 0 and the
   penalty. So does each component that touches no lesion, large or small: it is invented.
4. The case scores the mean over those lesions and inventions; without any, Dice 1 and HD95 0.

HD95 is that of `segformer3d.surfaces`, which counts every surface voxel once; the challenge's code weighs them by area.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segformer3d.boxes import bounding_box
from segformer3d.protocols import LesionRule
from segformer3d.surfaces import Mask, Spacing, hd95, surface_distances

_Labels = NDArray[np.int32]
_Place = tuple[slice, ...]
_Corners = NDArray[np.int64]
_EIGHTEEN, _TWENTY_SIX = 2, 3  # neighbours, as SciPy counts their connectivity


@dataclass(frozen=True)
class LesionScore:
    """The mean over lesions of one structure of one case, and how many were found, missed and invented."""

    dice: float
    hd95_mm: float
    found: int
    missed: int
    invented: int


def score_lesions(predicted: Mask, truth: Mask, spacing: Spacing, rule: LesionRule) -> LesionScore:
    """Score one structure lesion by lesion.

    Args:
        predicted: a mask (X, Y, Z).
        truth: another of the same shape.
        spacing: voxel size along X, Y and Z in mm.
        rule: how lesions are told apart and matched.
    """
    components, count = _components(predicted)
    touched = np.zeros(count + 1, bool)
    scores: list[tuple[float, float]] = []
    found = 0
    for lesion, guess in _matched(truth, components, touched, rule.dilation_voxels):
        if np.count_nonzero(lesion) * math.prod(spacing) > rule.smallest_mm3:
            found += bool(guess.any())
            scores.append(_score(guess, lesion, spacing, rule.penalty_mm))
    missed, invented = len(scores) - found, int(np.count_nonzero(~touched[1:]))
    scores.extend([(0.0, rule.penalty_mm)] * invented)
    if not scores:
        return LesionScore(1.0, 0.0, 0, 0, 0)
    dice, distance = (math.fsum(column) / len(scores) for column in zip(*scores, strict=True))
    return LesionScore(dice, distance, found, missed, invented)


def _matched(
    truth: Mask, components: _Labels, touched: NDArray[np.bool_], dilations: int
) -> Iterator[tuple[Mask, Mask]]:
    """Each lesion with its prediction, in a box around both; notes in `touched` the components that any lesion has."""
    starts, stops = _extents(components, touched.size)
    dilated, places = _dilated_lesions(truth, dilations)
    lesions = dilated * truth
    for number, place in enumerate(places, start=1):
        touching = np.unique(components[place][dilated[place] == number])
        touching = touching[touching > 0]
        touched[touching] = True
        mine = np.zeros_like(touched)
        mine[touching] = True
        hull = _hull(place, starts[touching], stops[touching])
        yield lesions[hull] == number, mine[components[hull]]


def _dilated_lesions(truth: Mask, dilations: int) -> tuple[_Labels, list[_Place]]:
    """The components of the dilated truth by number from 1 on, and the box around each."""
    from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure

    labels = np.zeros(truth.shape, np.int32)
    box = bounding_box(truth, dilations)
    dilated = binary_dilation(truth[box], generate_binary_structure(3, _EIGHTEEN), iterations=dilations)
    labels[box], _ = _components(dilated)
    return labels, find_objects(labels)


def _components(mask: Mask) -> tuple[_Labels, int]:
    from scipy.ndimage import generate_binary_structure, label

    labels, count = label(mask, generate_binary_structure(3, _TWENTY_SIX))
    return labels, count


def _extents(components: _Labels, count: int) -> tuple[_Corners, _Corners]:
    """The first voxel of each component along each axis, and the one behind the last; row 0 is of no component.

    (SciPy's `find_objects` is slow for the thousands of components that scattered voxels are.)
    """
    voxels = np.argwhere(components)
    order = np.argsort(components[tuple(voxels.T)], kind="stable")
    voxels = voxels[order]
    first = np.searchsorted(components[tuple(voxels.T)], np.arange(1, count))
    starts, stops = np.zeros((2, count, components.ndim), np.int64)
    if count > 1:
        starts[1:], stops[1:] = np.minimum.reduceat(voxels, first), np.maximum.reduceat(voxels, first) + 1
    return starts, stops


def _hull(place: _Place, starts: _Corners, stops: _Corners) -> _Place:
    """The box around a box and others, given by their corners (N, 3)."""
    low = np.vstack([[side.start for side in place], starts]).min(axis=0)
    high = np.vstack([[side.stop for side in place], stops]).max(axis=0)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _score(guess: Mask, lesion: Mask, spacing: Spacing, penalty_mm: float) -> tuple[float, float]:
    if not guess.any():
        return 0.0, penalty_mm
    overlap = np.count_nonzero(guess & lesion)
    dice = 2 * overlap / (np.count_nonzero(guess) + np.count_nonzero(lesion))
    return dice, hd95(*surface_distances(guess, lesion, spacing))
