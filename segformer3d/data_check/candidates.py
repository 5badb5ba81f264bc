"""Pairs of cases that may be one scan, found by their fingerprints, without reading a file again.

Three steps, each on what the one before left: equal samples are certain; the most alike by correlation of the halved
fingerprints, mirrored or not; and of those, the ones that agree where they overlap, at the shift that fits best
(by cross-correlation). What remains is a handful of pairs, true or not, for `twins` to read and to compare voxel by
voxel. A copy that was cropped by a tenth of its side is still found.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from segformer3d.data_check.facts import CaseFacts
from segformer3d.data_check.fingerprint import CELLS, at_cell_size, halve

# Hippocampus crops of different patients reach 0.84 in the last step, cropped copies of one stay above 0.83.
LEAST_LIKENESS = 0.8
NEIGHBOURS = 5
MIRRORINGS = tuple(itertools.product((1, -1), repeat=3))
_LEAST_CELLS = 64
_BLOCK = 512  # rows of the matrix of likenesses that are looked at together

Array = NDArray[Any]
Floats = NDArray[np.float32]
Shift = tuple[int, int, int]


@dataclass(frozen=True)
class Candidate:
    """Two cases, by index, that may be one scan.

    Attributes:
        mirrored: 1 or -1 for each axis, what the second must be turned by to fit the first.
        shift_mm: where the second, so turned, lies against the first, centre to centre.
        likeness: correlation of the fingerprints where they overlap.
    """

    one: int
    other: int
    mirrored: tuple[int, int, int]
    shift_mm: tuple[float, float, float]
    likeness: float


def find_candidates(cases: Sequence[CaseFacts], first_of_others: int) -> list[Candidate]:
    """Pairs with at least one case before `first_of_others`; each pair once, the lower index first."""
    if len(cases) < 2:
        return []
    sizes, counts = np.unique([case.cell_mm for case in cases], return_counts=True)
    cell_mm = float(sizes[counts.argmax()])
    grids = np.stack([_normalised(at_cell_size(case.fingerprint, case.cell_mm, cell_mm)) for case in cases])
    found: dict[tuple[int, int], Candidate] = {}
    for one, other, mirrored in _alike(grids, first_of_others):
        likeness, shift = compare(grids[one], _mirror(grids[other], mirrored))
        pair = (min(one, other), max(one, other))
        if likeness >= LEAST_LIKENESS and (pair not in found or likeness > found[pair].likeness):
            # Turned the other way round, the second lies on the other side of the first.
            signs = (1, 1, 1) if one < other else tuple(-turn for turn in mirrored)
            x, y, z = (cell_mm * step * sign for step, sign in zip(shift, signs, strict=True))
            found[pair] = Candidate(*pair, mirrored, (x, y, z), likeness)
    for pair in _equal_content(cases, first_of_others):
        found[pair] = Candidate(*pair, (1, 1, 1), (0.0, 0.0, 0.0), 1.0)
    return [found[pair] for pair in sorted(found)]


def _normalised(grid: Floats) -> Floats:
    length = float(np.linalg.norm(grid))
    return grid / np.float32(length) if length else grid


def _mirror(grid: Floats, mirrored: Sequence[int]) -> Floats:
    return grid[tuple(slice(None, None, turn) for turn in mirrored)]


def _equal_content(cases: Sequence[CaseFacts], first_of_others: int) -> Iterator[tuple[int, int]]:
    seen: dict[tuple[object, ...], int] = {}
    for index, case in enumerate(cases):
        key = (case.geometry.shape, case.channels[0].content)
        if key not in seen:
            seen[key] = index
        elif seen[key] < first_of_others:
            yield seen[key], index


def _alike(grids: Floats, first_of_others: int) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    """Of each case before `first_of_others` the nearest neighbours, and how they must be turned."""
    halved = np.stack([_normalised(halve(grid)).ravel() for grid in grids])
    side = CELLS // 2
    for start in range(0, first_of_others, _BLOCK):
        rows = halved[start : start + _BLOCK][: first_of_others - start]
        best, turns = np.full((len(rows), len(grids)), -1, np.float32), np.zeros((len(rows), len(grids)), np.int8)
        for number, mirrored in enumerate(MIRRORINGS):
            turned = _mirror(rows.reshape(-1, side, side, side).transpose(1, 2, 3, 0), mirrored)
            likeness = turned.transpose(3, 0, 1, 2).reshape(len(rows), -1) @ halved.T
            turns[likeness > best] = number
            best = np.maximum(best, likeness)
        best[np.arange(len(rows)), start + np.arange(len(rows))] = -1
        nearest = np.argsort(-best, axis=1)[:, :NEIGHBOURS]
        for row, others in enumerate(nearest):
            yield from (
                (start + row, int(other), MIRRORINGS[turns[row, other]]) for other in others if other != start + row
            )


def compare(one: Floats, other: Floats) -> tuple[float, Shift]:
    """Correlation where both fingerprints have an image, and the cells that `other` is moved by to get there."""
    product = fft.irfftn(fft.rfftn(one) * np.conj(fft.rfftn(other)), s=one.shape)
    peak = np.unravel_index(int(product.argmax()), product.shape)
    x, y, z = ((int(place) + CELLS // 2) % CELLS - CELLS // 2 for place in peak)
    here, there = overlap(one, other, (x, y, z))
    both = (here != 0) & (there != 0)
    if np.count_nonzero(both) < _LEAST_CELLS:
        return 0.0, (x, y, z)
    return correlation(here[both], there[both]), (x, y, z)


def overlap(one: Array, other: Array, shift: Sequence[int]) -> tuple[Array, Array]:
    """Views of what two arrays have in common once the second is moved by `shift` from corner on corner."""
    here, there = [], []
    for step, size, room in zip(shift, one.shape, other.shape, strict=True):
        start, stop = max(0, step), max(0, step, min(size, room + step))
        here.append(slice(start, stop))
        there.append(slice(start - step, stop - step))
    return one[tuple(here)], other[tuple(there)]


def correlation(one: Array, other: Array) -> float:
    """Pearson's, 0 where one of them is constant."""
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    if a.size < 2:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else 0.0
