"""Intensities as the model sees them, scaled for each contrast alone: scanners differ by orders of magnitude."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.boxes import WHOLE, along_memory, nonzero_box
from segformer3d.task import Task

Image = NDArray[np.float32]
Channel = NDArray[Any]
Doubles = NDArray[np.float64]
Scale = Callable[[Doubles], Doubles]

_PLANES = 4  # that are scaled at a time: as many bytes as the fastest memory holds
_VALUES = 2**16  # that are summed at a time, for the same reason; sums of so many squares of 16 bits are exact


def scale_intensity(image_CXYZ: Image, task: Task) -> Image:
    """An image as the model sees it; a contrast that is 0 everywhere stays so."""
    return scale_contrasts(image_CXYZ, range(len(image_CXYZ)), task)


def scale_contrasts(contrasts: Iterable[Channel], places: Sequence[int], task: Task) -> Image:
    """Contrasts as the model sees them, whatever number type their files hold: the same as of their float32.

    Args:
        contrasts: each (X, Y, Z).
        places: which of the task's contrasts each is; the others are absent, and 0.
        task: says how to scale.

    Returns:
        (C, X, Y, Z) float32.
    """
    contrasts = tuple(contrasts)
    scaled_CXYZ = np.zeros((len(task.modalities), *contrasts[0].shape), np.float32)
    for channel_XYZ, place in zip(contrasts, places, strict=True):
        box = nonzero_box(channel_XYZ)
        if 0 in channel_XYZ[box].shape:  # an absent contrast; a scan of one value everywhere is refused
            continue
        box = box if task.intensity == "zscore_nonzero" else WHOLE  # beyond it all is 0 and stays so
        apply = _by_table if _is_small_integer(channel_XYZ) else _plane_by_plane
        apply(channel_XYZ[box], _scale_for(channel_XYZ[box], task), scaled_CXYZ[place][box])
    return scaled_CXYZ


def _is_small_integer(channel: Channel) -> bool:
    return channel.dtype.kind in "iu" and channel.dtype.itemsize <= 2


def _by_table(channel_XYZ: Channel, scale: Scale, scaled_XYZ: Image) -> None:
    """Scanners' 16 bits have so few values that each is scaled once and then looked up, negative ones from the end."""
    forward = along_memory(channel_XYZ)
    values = np.arange(min(int(forward.min()), 0), max(int(forward.max()), 0) + 1)
    table = np.empty(len(values), np.float32)
    table[values] = scale(values.astype(np.float64))
    for first in range(0, len(channel_XYZ), _PLANES):
        some = slice(first, first + _PLANES)
        scaled_XYZ[some] = np.take(table, channel_XYZ[some], mode="wrap")  # the mode that takes negative ones


def _plane_by_plane(channel_XYZ: Channel, scale: Scale, scaled_XYZ: Image) -> None:
    """A large CT in float64 would be larger than all that comes after it."""
    for plane_YZ, scaled_YZ in zip(channel_XYZ, scaled_XYZ, strict=True):
        scaled_YZ[:] = scale(plane_YZ.astype(np.float32, copy=False).astype(np.float64))


def _scale_for(channel: Channel, task: Task) -> Scale:
    """What a task does to each value of a channel."""
    if task.intensity in ("window", "minmax"):
        low, high = task.window or (float(np.float32(channel.min())), float(np.float32(channel.max())))
        return lambda values: np.clip((values - low) / (high - low), 0.0, 1.0)
    nonzero = task.intensity == "zscore_nonzero"
    mean, spread = (_of_whole_numbers if _is_small_integer(channel) else _of_any)(channel, nonzero)
    if not nonzero:
        return lambda values: (values - mean) / spread
    return lambda values: np.where(values == 0, 0.0, (values - mean) / spread)


def _of_whole_numbers(channel: Channel, nonzero: bool) -> tuple[float, float]:
    """`_of_any` of 16 bits, in one pass: sums of whole numbers and their squares are exact, and 0 adds nothing."""
    flat = along_memory(channel).ravel(order="K")
    count = int(np.count_nonzero(flat)) if nonzero else flat.size
    total = squares = 0
    for first in range(0, flat.size, _VALUES):
        values = flat[first : first + _VALUES].astype(np.float64)
        total, squares = total + int(values.sum()), squares + int(np.square(values).sum())
    return total / count, math.sqrt((count * squares - total * total) / count**2) or 1.0


def _of_any(channel: Channel, nonzero: bool) -> tuple[float, float]:
    """Mean and standard deviation of all values, or of those that are not 0; a spread of 0 becomes 1."""
    planes = (plane.astype(np.float32, copy=False) for plane in channel)
    parts = [plane[plane != 0] if nonzero else plane for plane in planes]
    count = max(1, sum(part.size for part in parts))
    mean = math.fsum(float(part.sum(dtype=np.float64)) for part in parts) / count
    variance = math.fsum(float(np.square(part.astype(np.float64) - mean).sum()) for part in parts) / count
    return mean, math.sqrt(variance) or 1.0
