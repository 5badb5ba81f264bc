"""A scan in 32 cells a side around its centre, to find the same scan again under another name.

Cells are cubes of 1, 2, 4, ... mm, the smallest with which the scan fits, so that a copy that was cropped by a few
voxels falls into the same cells. Intensities are standardised outside the background and the background is 0: neither
the scanner's scale nor the outline of a head says who is who. Correlation compares two fingerprints.
"""

import numpy as np
from numpy.typing import NDArray

from segformer3d.data_check.facts import ChannelFacts, Grid
from segformer3d.data_check.intensities import even_sample
from segformer3d.volumes import StoredCase, spacing_of

CELLS = 32
_SAMPLE = 2**18

Floats = NDArray[np.float32]


def cell_size(field_mm: tuple[float, float, float]) -> float:
    """The smallest power of two, in mm, of which `CELLS` cover the field of view."""
    cell = 2.0**-6
    while cell * CELLS < max(field_mm):
        cell *= 2
    return cell


def make_fingerprint(stored: StoredCase, facts: ChannelFacts, background: float | None, cell_mm: float) -> Grid:
    """(CELLS, CELLS, CELLS) cell means of the first contrast; 0 where there is no image."""
    channel = even_sample(stored.channels[0], _SAMPLE)
    values = (channel.astype(np.float32) - np.float32(facts.mean)) / np.float32(facts.standard_deviation)
    if background is not None:
        values[channel == np.asarray(background).astype(channel.dtype)] = 0
    spacing = spacing_of(stored.affine)
    for axis, (size, whole) in enumerate(zip(values.shape, stored.shape, strict=True)):
        values = _cells_along(values, axis, whole / size * spacing[axis] / cell_mm)
    return values.astype(np.float16)


def _cells_along(values: Floats, axis: int, step: float) -> Floats:
    """Means of the samples in each cell along an axis; samples lie `step` cells apart."""
    size = values.shape[axis]
    cells = np.floor((np.arange(size) - (size - 1) / 2) * step + CELLS / 2).astype(int).clip(0, CELLS - 1)
    firsts = np.flatnonzero(np.diff(cells, prepend=-1))
    counts = np.diff(np.append(firsts, size))
    sums = np.moveaxis(np.add.reduceat(values, firsts, axis=axis), axis, -1)
    shape = (*sums.shape[:-1], CELLS)
    filled = np.zeros(shape, np.float32)
    filled[..., cells[firsts]] = sums / counts
    return np.moveaxis(filled, -1, axis)


def at_cell_size(grid: Grid, cell_mm: float, wanted_mm: float) -> Floats:
    """A fingerprint as it would be with larger or smaller cells; smaller ones show no more than the larger did."""
    values = grid.astype(np.float32)
    while cell_mm < wanted_mm:
        halved = halve(values)
        values = np.zeros_like(values)
        values[CELLS // 4 : 3 * CELLS // 4, CELLS // 4 : 3 * CELLS // 4, CELLS // 4 : 3 * CELLS // 4] = halved
        cell_mm *= 2
    while cell_mm > wanted_mm:
        middle = values[CELLS // 4 : 3 * CELLS // 4, CELLS // 4 : 3 * CELLS // 4, CELLS // 4 : 3 * CELLS // 4]
        values = middle.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
        cell_mm /= 2
    return values


def halve(values: Floats) -> Floats:
    """Means of 2 x 2 x 2 cells."""
    half = values.shape[0] // 2
    means: Floats = values.reshape(half, 2, half, 2, half, 2).mean(axis=(1, 3, 5))
    return means
