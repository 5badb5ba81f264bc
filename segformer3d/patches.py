"""Training patches: where they are cut, and how they are varied.

A patch is an affine view of its volume: rotation, scaling, mirroring and position are one sampling grid, so that a
patch is interpolated once at most, and only the box of the memory-mapped volume that the grid touches is read.
Everything random comes from the generator that is passed in.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segformer3d.config import Triple
from segformer3d.dataset import PreparedCase
from segformer3d.lacks import present_channels
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task

Generator = np.random.Generator
Vector = NDArray[np.float64]
Box = tuple[slice, slice, slice]

SPATIAL_SHARE = 0.5  # patches that are rotated and scaled; the others stay on the voxel grid, not interpolated
ROTATION = 0.2  # radians to either side about each axis
LOG_SCALE = 0.15  # patches are scaled by exp(±0.15)
LOG_CONTRAST, BRIGHTNESS, CONTRAST_SHARE = 0.25, 0.25, 0.5
LOG_GAMMA, GAMMA_SHARE = 0.4, 0.3
NOISE, NOISE_SHARE = 0.15, 0.15


@dataclass(frozen=True)
class Patch:
    """One training sample: `image` (C, x, y, z) float32 and `label` (x, y, z) int16 label values."""

    image: Tensor
    label: Tensor


def sample_patch(case: PreparedCase, task: Task, settings: TrainingSettings, generator: Generator) -> Patch:
    """Cut one random patch of the task's size out of a case.

    Where the patch reaches over the volume's edge, the image goes on with its last voxel and the label is background.
    """
    image, label = case.image(), case.label()
    size = np.array(label.shape)
    turn = _random_turn(task, settings, generator)
    centre = _random_centre(case, size, task, settings, generator)
    patch = _cut(image, label, turn, centre, task.patch)
    if not settings.augment:
        return patch
    varied = _vary_intensity(patch.image, generator)
    if case.lacks.absent:  # what is not there does not vary
        present = present_channels(task, case.lacks)
        varied = torch.zeros_like(varied).index_copy_(0, torch.tensor(present), varied[present])
    return Patch(varied, patch.label)


def _random_turn(task: Task, settings: TrainingSettings, generator: Generator) -> NDArray[np.float64]:
    """The (3, 3) matrix from patch axes to volume axes."""
    turn = np.eye(3)
    if not settings.augment:
        return turn
    if generator.random() < SPATIAL_SHARE:
        for axis, angle in enumerate(generator.uniform(-ROTATION, ROTATION, 3)):
            turn = turn @ _rotation(axis, float(angle))
        turn = turn * math.exp(generator.uniform(-LOG_SCALE, LOG_SCALE))
    for axis in task.flip_axes:
        if generator.random() < 0.5:
            turn[:, axis] *= -1
    return turn


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    first, second = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def _random_centre(
    case: PreparedCase, size: NDArray[np.int64], task: Task, settings: TrainingSettings, generator: Generator
) -> Vector:
    """A centre such that the patch stays inside the volume where it fits, on the voxel grid."""
    patch = np.array(task.patch)
    slack = np.maximum(size - patch, 0)
    corner = np.where(size >= patch, generator.integers(0, slack + 1), (size - patch) // 2)
    if slack.any() and generator.random() < settings.foreground:
        voxels = case.voxels()
        if len(voxels):
            # A structure first, then one of its voxels: small structures are met as often as large ones.
            structure = generator.choice(np.unique(voxels[:, 0]))
            voxel = generator.choice(voxels[voxels[:, 0] == structure])[1:]
            corner = np.where(size >= patch, np.clip(voxel - patch // 2, 0, slack), corner)
    centre: Vector = corner + (patch - 1) / 2
    return centre


def _cut(
    image: NDArray[np.float32], label: NDArray[np.int16], turn: NDArray[np.float64], centre: Vector, patch: Triple
) -> Patch:
    """A patch that is mirrored at most consists of voxels of the volume; any other is interpolated."""
    on_grid = (np.abs(turn) == np.eye(3)).all()
    return (_crop if on_grid else _turned)(image, label, turn, centre, patch)


def _crop(
    image: NDArray[np.float32], label: NDArray[np.int16], turn: NDArray[np.float64], centre: Vector, patch: Triple
) -> Patch:
    """A patch on the voxel grid: copied, continued over the edges, mirrored."""
    size = np.array(label.shape)
    corner = np.rint(centre - (np.array(patch) - 1) / 2).astype(int)
    low = np.clip(corner, 0, size - 1)
    high = np.clip(corner + patch, low + 1, size)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    edges = [(int(a), int(b)) for a, b in zip(low - corner, corner + patch - high, strict=True)]
    mirrored = tuple(axis for axis in range(3) if turn[axis, axis] < 0)
    whole_image = np.pad(image[:, x, y, z], [(0, 0), *edges], mode="edge")
    whole_label = np.pad(label[x, y, z], edges)
    return Patch(
        torch.from_numpy(np.flip(whole_image, tuple(axis + 1 for axis in mirrored)).copy()),
        torch.from_numpy(np.flip(whole_label, mirrored).copy()),
    )


def _turned(
    image: NDArray[np.float32], label: NDArray[np.int16], turn: NDArray[np.float64], centre: Vector, patch: Triple
) -> Patch:
    """A rotated and scaled patch: the image interpolated, the label of the nearest voxel, background outside."""
    (x, y, z), theta = _sampling(patch, turn, centre, np.array(label.shape))
    # PyTorch orders coordinates from the last axis to the first.
    matrix = np.column_stack([theta[::-1, 2::-1], theta[::-1, 3]]).astype(np.float32)
    grid = F.affine_grid(torch.from_numpy(matrix)[None], [1, 1, *patch], align_corners=True)
    values = torch.from_numpy(np.array(image[:, x, y, z]))[None]
    labels = torch.from_numpy(np.array(label[x, y, z], dtype=np.float32))[None, None]
    turned_image = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    turned_label = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)[0, 0]
    return Patch(turned_image, turned_label.to(torch.int16))


def _sampling(
    patch: Triple, turn: NDArray[np.float64], centre: Vector, size: NDArray[np.int64]
) -> tuple[Box, NDArray[np.float64]]:
    """The box of the volume that a turned patch touches, and the (3, 4) matrix from patch to box coordinates.

    In the patch, -1 and 1 are the centres of the outermost voxels; in the box, the outer edges of its outermost voxels,
    so that a box of one slice has an inside and an outside as well. Axes are in order x, y, z.
    """
    half = (np.array(patch) - 1) / 2
    reach = np.abs(turn) @ half
    low = np.clip(np.floor(centre - reach).astype(int), 0, size - 1)
    high = np.clip(np.ceil(centre + reach).astype(int), low, size - 1)
    theta = np.column_stack([turn * half, centre - low + 0.5]) * (2 / (high - low + 1))[:, None]
    theta[:, 3] -= 1
    x, y, z = (slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    return (x, y, z), theta


def _vary_intensity(image: Tensor, generator: Generator) -> Tensor:
    """Contrast, brightness, gamma and noise, for each channel alone, as scanners and protocols differ."""
    return torch.stack([_vary_channel(channel, generator) for channel in image])


def _vary_channel(channel: Tensor, generator: Generator) -> Tensor:
    if generator.random() < CONTRAST_SHARE:
        contrast = math.exp(generator.uniform(-LOG_CONTRAST, LOG_CONTRAST))
        channel = channel * contrast + generator.uniform(-BRIGHTNESS, BRIGHTNESS)
    if generator.random() < GAMMA_SHARE:
        channel = _gamma(channel, math.exp(generator.uniform(-LOG_GAMMA, LOG_GAMMA)))
    if generator.random() < NOISE_SHARE:
        noise = generator.standard_normal(channel.shape, dtype=np.float32) * generator.uniform(0, NOISE)
        channel = channel + torch.from_numpy(noise.astype(np.float32))
    return channel


def _gamma(channel: Tensor, gamma: float) -> Tensor:
    """A power curve between the channel's extremes that keeps its mean and spread."""
    values = channel.numpy()  # NumPy's sums, unlike PyTorch's, do not depend on the number of threads of the process
    low, high = values.min(), values.max()
    if high <= low:
        return channel
    curved = ((values - low) / (high - low)) ** np.float32(gamma)
    return torch.from_numpy((curved - curved.mean()) / (curved.std() + 1e-6) * values.std() + values.mean())
