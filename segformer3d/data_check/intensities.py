"""Intensities of a case, from an even sample of its voxels: what they are, and the shape of their histogram.

The sample bounds the time that a large scan takes: of 100,000 voxels, a percentile is known to 0.2 of a percent. What
it cannot see, single voxels, is left to the extremes, which are those of all voxels.
"""

import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.data_check.facts import ChannelFacts
from segformer3d.task import Task
from segformer3d.volumes import StoredCase

SAMPLE = 2**17
PERCENTILES = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0)
MEDIAN = PERCENTILES.index(50.0)
SHAPE_PERCENTILES = tuple(np.linspace(1.5, 98.5, 33).tolist())
# A value that so many voxels have, 0 or else the lowest, is the background's rather than a tissue's.
BACKGROUND_SHARE = 0.05

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Some voxels of a case.

    Attributes:
        values: (C, n) float32, in the order of the voxels.
        inside: (n,) whether a voxel lies outside the background of at least one contrast.
        backgrounds: the value that stands for the background of each contrast, None where none does.
        label: (n,) label values, or None.
    """

    values: Floats
    inside: NDArray[np.bool_]
    backgrounds: tuple[float | None, ...]
    label: NDArray[np.int16] | None


def even_sample(array_XYZ: NDArray[Any], most: int) -> NDArray[Any]:
    """A view of every n-th voxel along each axis, with the smallest n that leaves `most` voxels at the most."""
    step = 1
    while math.prod(-(-size // step) for size in array_XYZ.shape) > most:
        step += 1
    starts = [min(step // 2, size - 1) for size in array_XYZ.shape]
    view: NDArray[Any] = array_XYZ[tuple(slice(start, None, step) for start in starts)]
    return view


def take_sample(stored: StoredCase) -> Sample:
    """The voxels that the facts of a case are computed from."""
    values = np.stack([even_sample(channel, SAMPLE).ravel().astype(np.float32) for channel in stored.channels])
    lowest = [low for low, _ in stored.extremes]
    backgrounds = tuple(background_of(channel, low) for channel, low in zip(values, lowest, strict=True))
    outside = [
        np.zeros(values.shape[1], np.bool_) if background is None else channel == background
        for channel, background in zip(values, backgrounds, strict=True)
    ]
    inside = ~np.logical_and.reduce(outside)
    if not inside.any():  # what there is lies between the voxels of the sample
        inside[:] = True
    label = None if stored.label is None else even_sample(stored.label, SAMPLE).ravel().astype(np.int16)
    return Sample(values, inside, backgrounds, label)


def background_of(values: NDArray[Any], lowest: float) -> float | None:
    """The value that stands for the background, None where none does."""
    for candidate in (0.0, lowest):
        if np.count_nonzero(values == values.dtype.type(candidate)) >= BACKGROUND_SHARE * values.size:
            return candidate
    return None


def measure_channels(stored: StoredCase, sample: Sample, task: Task) -> tuple[ChannelFacts, ...]:
    """The facts of each contrast."""
    masks = None
    if sample.label is not None:
        masks = [np.isin(sample.label[sample.inside], structure.labels) for structure in task.structures]
    return tuple(_measure_channel(stored, sample, number, masks) for number in range(len(stored.channels)))


def _measure_channel(
    stored: StoredCase, sample: Sample, number: int, masks: list[NDArray[np.bool_]] | None
) -> ChannelFacts:
    values, background = sample.values[number], sample.backgrounds[number]
    inside = values[sample.inside]
    ordered = np.sort(inside)
    mean, spread = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64)) or 1.0
    low, high = stored.extremes[number]
    standardised = (_at(ordered, SHAPE_PERCENTILES) - mean) / spread
    means = [(float(inside[mask].mean()) - mean) / spread if mask.any() else math.nan for mask in masks or ()]
    return ChannelFacts(
        dtype=str(stored.channels[number].dtype),
        lowest=low,
        highest=high,
        percentiles=tuple(_at(ordered, PERCENTILES).tolist()),
        mean=mean,
        standard_deviation=spread,
        levels=1 + int(np.count_nonzero(np.diff(ordered))),
        zeros=float(np.mean(values == 0)),
        background=0.0 if background is None else float(np.mean(values == np.float32(background))),
        at_highest=1 - float(np.searchsorted(ordered, np.float32(high))) / ordered.size,
        standardised=tuple(standardised.tolist()),
        in_structures=tuple(means),
        content=hashlib.sha256(values.tobytes()).hexdigest(),
    )


def _at(ordered: Floats, percentiles: tuple[float, ...]) -> Doubles:
    """Percentiles of sorted values, with linear interpolation."""
    places = np.array(percentiles) / 100 * (ordered.size - 1)
    below = np.array(places, np.intp)
    above = np.minimum(below + 1, ordered.size - 1)
    values: Doubles = ordered[below] * (1 - (places - below)) + ordered[above] * (places - below)
    return values


def measure_relations(sample: Sample) -> tuple[float, ...]:
    """Correlation of each pair of contrasts outside the background, in the order of `itertools.combinations`."""
    count = len(sample.values)
    if count < 2:
        return ()
    with np.errstate(invalid="ignore"):  # a contrast that is constant there
        matrix: Doubles = np.nan_to_num(np.corrcoef(sample.values[:, sample.inside])).reshape(count, count)
    return tuple(float(matrix[i, j]) for i, j in itertools.combinations(range(count), 2))
