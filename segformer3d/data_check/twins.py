"""Whether two cases are one scan: both are read again and compared voxel by voxel.

The images are laid over each other at whole voxels, from where the fingerprints fit, to where they fit best. One scan
they are where nearly all that one shows follows from the other, whatever the scale of the values: exported twice,
stored as another number type, mirrored, cropped or padded. Two scans of one patient do not come near: their noise
differs.
"""

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.data_check.candidates import Candidate, correlation, overlap
from segformer3d.data_check.intensities import background_of, even_sample
from segformer3d.errors import CaseError
from segformer3d.layouts.files import CaseFiles
from segformer3d.nifti import Scan, read_nifti
from segformer3d.volumes import spacing_of

SAME = 0.99
ALIKE = 0.95
# Of the fingerprints, where the grids differ and voxels cannot be compared.
ALIKE_CELLS = 0.93
LEAST_OVERLAP = 0.5  # of the smaller scan
SAME_SPACING = 0.02
_SAMPLE = 2**14
_AXES = ("left-right", "front-back", "top-bottom")

Array = NDArray[Any]
Place = tuple[int, ...]


@dataclass(frozen=True)
class Twins:
    """Two cases, by index, that are one scan (`same`) or look like it, and in what they differ."""

    one: int
    other: int
    same: bool
    how: str


@dataclass(frozen=True)
class _Pair:
    """The first contrasts of two cases, the second turned as the first, and the values of their backgrounds."""

    one: Array
    other: Array
    backgrounds: tuple[float | None, float | None]

    def likeness(self, place: Place, most: int | None = None) -> float:
        """Correlation where at least one is not background, the second moved by `place`; of a sample of `most`."""
        parts = overlap(self.one, self.other, place)
        if parts[0].size < LEAST_OVERLAP * min(self.one.size, self.other.size):
            return 0.0
        here, there = parts if most is None else (even_sample(part, most) for part in parts)
        used = ~(_is(here, self.backgrounds[0]) & _is(there, self.backgrounds[1]))
        return correlation(here[used], there[used])


def compare_scans(candidate: Candidate, one: CaseFiles, other: CaseFiles, reach_mm: float) -> Twins | None:
    """What the voxels of two candidates say, whose shift is known to `reach_mm`; None where they are two scans."""
    try:
        here, there = (read_nifti(files.images[0], "image") for files in (one, other))
    except CaseError:  # it has changed since it was measured; the next check will say how
        return None
    if not np.allclose(spacing_of(here.affine), spacing_of(there.affine), rtol=SAME_SPACING, atol=0):
        alike = candidate.likeness >= ALIKE_CELLS
        return Twins(candidate.one, candidate.other, False, "on another grid") if alike else None
    pair = _pair(here, there, candidate.mirrored)
    place = _best_place(pair, candidate, spacing_of(here.affine), reach_mm)
    likeness = pair.likeness(place)
    if likeness < ALIKE:
        return None
    words = [_same_values(one, other, pair, place), *_moved(pair, place, candidate.mirrored)]
    words += _same_labels(one, other, place, candidate.mirrored)
    return Twins(candidate.one, candidate.other, likeness >= SAME, ", ".join(words))


def _pair(here: Scan, there: Scan, mirrored: Sequence[int]) -> _Pair:
    one, other = here.channels()[0], _turned(there.channels()[0], mirrored)
    known = (background_of(even_sample(scan, _SAMPLE), float(scan.min())) for scan in (one, other))
    return _Pair(one, other, (next(known), next(known)))


def _turned(array: Array, mirrored: Sequence[int]) -> Array:
    return array[tuple(slice(None, None, turn) for turn in mirrored)]


def _is(array: Array, value: float | None) -> NDArray[np.bool_]:
    return np.zeros(array.shape, np.bool_) if value is None else array == array.dtype.type(value)


def _best_place(pair: _Pair, candidate: Candidate, spacing_mm: Sequence[float], reach_mm: float) -> Place:
    """Whole voxels that lay the second over the first: uphill from where the fingerprints fit, in smaller steps."""
    start = tuple(0 for _ in spacing_mm)
    if pair.one.shape == pair.other.shape and pair.likeness(start, _SAMPLE) >= SAME:
        return start
    corners = [(size - room) / 2 for size, room in zip(pair.one.shape, pair.other.shape, strict=True)]
    steps = zip(candidate.shift_mm, spacing_mm, corners, strict=True)
    place: Place = tuple(round(mm / voxel + corner) for mm, voxel, corner in steps)
    height, step = pair.likeness(place, _SAMPLE), max(1, round(reach_mm / min(spacing_mm)))
    while step:
        around = [tuple(p + step * d for p, d in zip(place, way, strict=True)) for way in _WAYS]
        higher, best = max((pair.likeness(to, _SAMPLE), to) for to in around)
        if higher > height:
            place, height = best, higher
        else:
            step //= 2
    return place


_WAYS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


def _same_values(one: CaseFiles, other: CaseFiles, pair: _Pair, place: Place) -> str:
    if len(one.images) == len(other.images) and all(
        filecmp.cmp(*paths, shallow=False) for paths in zip(one.images, other.images, strict=True)
    ):
        return "the same file"
    return "the same voxels" if np.array_equal(*overlap(pair.one, pair.other, place)) else "the same with other values"


def _moved(pair: _Pair, place: Place, mirrored: Sequence[int]) -> list[str]:
    words = [f"mirrored {name}" for name, turn in zip(_AXES, mirrored, strict=True) if turn < 0]
    return [*words, "cropped or moved"] if pair.one.shape != pair.other.shape or any(place) else words


def _same_labels(one: CaseFiles, other: CaseFiles, place: Place, mirrored: Sequence[int]) -> list[str]:
    if one.label is None or other.label is None:
        return []
    try:
        labels = [read_nifti(path, "label").channels()[0] for path in (one.label, other.label)]
    except CaseError:
        return []
    equal = np.array_equal(*overlap(labels[0], _turned(labels[1], mirrored), place))
    return [] if equal else ["with another label"]
