"""Whole-volume inference: an overlap-weighted sliding window, on the task's grid, brought back to the volume's own.

The window is the task's patch, the size that the model was trained at: a transformer's attention and the zero padding
of its grids depend on the size, and on hippocampus crops windows of another size cost 0.05 Dice. Everything flows in
slabs along X: memory holds the image, its masks, and a band of probabilities as thick as one window.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segformer3d.boxes import WHOLE, Place
from segformer3d.config import Triple
from segformer3d.errors import ConfigurationError
from segformer3d.intensity import Image, scale_intensity
from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task
from segformer3d.volumes import Label, Volume, model_size, resample_image
from segformer3d.windows import resample, slide

_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")
OVERLAP = 0.5
WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 4}
# Voxels around the foreground that are looked at as well, so that no structure is cut by the box.
MARGIN_VOXELS = 4


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is the first GPU, or the CPU where there is none.

    Raises:
        ConfigurationError: the name is another, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not _DEVICE.fullmatch(name):
        raise ConfigurationError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"this machine has no GPU {name!r} that PyTorch can use; choose 'auto' or 'cpu'")
    return device


def inference_dtype(device: torch.device) -> torch.dtype:
    """What windows are computed in: half as many bits where the device has units for it, float32 elsewhere.

    float16 on GPUs: inference needs its three more bits of precision rather than bfloat16's range. CPUs with AMX tiles
    gain much; those that only have AVX-512's bfloat16 product gain a fifth, for which no bits are given away.
    """
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32  # there is no public question


def predict_probabilities(
    model: SegFormer3D, task: Task, image_CXYZ: Image, device: torch.device, *, mirror: bool = False
) -> Tensor:
    """Class probabilities (K, X, Y, Z), float32 on the CPU, of a scaled image on the task's grid.

    With `mirror`, predictions for the image and its mirrored copies along the task's flip axes are averaged.
    """
    return torch.cat(list(probability_slabs(model, task, image_CXYZ, device, mirror=mirror)), dim=1)


def probability_slabs(
    model: SegFormer3D, task: Task, image_CXYZ: Image, device: torch.device, *, mirror: bool
) -> Iterator[Tensor]:
    """`predict_probabilities` in slabs (K, n, Y, Z), one behind the other along X.

    Only the box around the foreground is looked at; what lies outside is background.
    """
    model.to(device).eval()
    flips = _all_flips(task.flip_axes if mirror else ())
    predict = partial(_window_probabilities, model, task, flips, inference_dtype(device))
    box, at_once = _foreground_box(image_CXYZ, task), WINDOWS_AT_ONCE[device.type]
    slabs = slide(predict, image_CXYZ[:, *box], task.patch, overlap=OVERLAP, at_once=at_once, device=device)
    X, Y, Z = image_CXYZ.shape[1:]
    if box[0].start > 0:
        yield _background(task, (box[0].start, Y, Z))
    for slab_KXYZ in slabs:
        whole_KXYZ = _background(task, (slab_KXYZ.shape[1], Y, Z))
        whole_KXYZ[:, :, *box[1:]] = slab_KXYZ
        yield whole_KXYZ
    if box[0].stop < X:
        yield _background(task, (X - box[0].stop, Y, Z))


def native_slabs(
    model: SegFormer3D,
    task: Task,
    volume: Volume,
    device: torch.device,
    *,
    mirror: bool | None = None,
    place: Place = WHOLE,
) -> Iterator[Tensor]:
    """Class probabilities in slabs (K, n, Y, Z), one behind the other along X of the volume's own RAS grid.

    Args:
        model: a model of the task.
        task: what is segmented.
        volume: the scan.
        device: where to compute.
        mirror: whether predictions for mirrored copies are averaged; None does what the task says.
        place: the box of the volume that the model sees; intensities are scaled over the whole volume all the same.
    """
    seen = replace(volume, image=volume.image[:, *place], label=None)
    size = model_size(seen, task)
    image = resample_image(scale_intensity(volume.image, task)[:, *place], size)
    slabs = probability_slabs(model, task, image, device, mirror=task.mirror if mirror is None else mirror)
    X, Y, Z = seen.image.shape[1:]
    return slabs if size == (X, Y, Z) else resample(slabs, size, (X, Y, Z))


def mask_slabs(
    model: SegFormer3D, task: Task, volume: Volume, device: torch.device, *, mirror: bool | None = None
) -> Iterator[NDArray[np.bool_]]:
    """One mask per structure in slabs (S, n, Y, Z); the arguments are those of `native_slabs`."""
    for slab_KXYZ in native_slabs(model, task, volume, device, mirror=mirror):
        yield decide(slab_KXYZ, task)


def predict_masks(
    model: SegFormer3D, task: Task, volume: Volume, device: torch.device, *, mirror: bool | None = None
) -> NDArray[np.bool_]:
    """One mask per structure (S, X, Y, Z) on the volume's own RAS grid; the arguments are those of `native_slabs`."""
    return np.concatenate(list(mask_slabs(model, task, volume, device, mirror=mirror)), axis=1)


def predict_label(
    model: SegFormer3D, task: Task, volume: Volume, device: torch.device, *, mirror: bool | None = None
) -> Label:
    """The label map (X, Y, Z) on the volume's own RAS grid; the arguments are those of `native_slabs`."""
    return slabs_to_label(mask_slabs(model, task, volume, device, mirror=mirror), task)


def slabs_to_label(slabs_SXYZ: Iterable[NDArray[np.bool_]], task: Task) -> Label:
    """Masks as `mask_slabs` gives them to one label map (X, Y, Z)."""
    return np.concatenate([masks_to_label(masks, task) for masks in slabs_SXYZ])


def decide(probabilities_KXYZ: Tensor, task: Task) -> NDArray[np.bool_]:
    """Probabilities to one mask per structure (S, X, Y, Z): the likeliest class, or every region above one half."""
    if task.activation == "sigmoid":
        return (probabilities_KXYZ > 0.5).numpy()
    winner = probabilities_KXYZ.argmax(dim=0)
    return torch.stack([winner == channel for channel in range(1, task.channels)]).numpy()


def structure_probabilities(probabilities_KXYZ: Tensor, task: Task) -> NDArray[np.float32]:
    """The probability of each structure (S, X, Y, Z), without that of the background."""
    return probabilities_KXYZ[task.activation == "softmax" :].numpy()


def masks_to_label(masks_SXYZ: NDArray[np.bool_], task: Task) -> Label:
    """Masks to a label map (X, Y, Z).

    Structures that exclude each other take their first label. Nested regions (BraTS) are painted from the largest set
    of labels to the smallest, each with the label that no smaller region inside it claims.
    """
    label = np.zeros(masks_SXYZ.shape[1:], np.int16)
    order = sorted(range(len(task.structures)), key=lambda index: -len(task.structures[index].labels))
    for index in order:
        label[masks_SXYZ[index]] = _own_label(task, index)
    return label


def _own_label(task: Task, index: int) -> int:
    mine = set(task.structures[index].labels)
    smaller = [set(s.labels) for s in task.structures if set(s.labels) < mine]
    left = mine.difference(*smaller)
    return min(left or mine)


@torch.inference_mode()
def _window_probabilities(
    model: SegFormer3D, task: Task, flips: list[tuple[int, ...]], dtype: torch.dtype, x_BCXYZ: Tensor
) -> Tensor:
    parts = []
    for axes in flips:
        with torch.autocast(x_BCXYZ.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(x_BCXYZ.flip(axes))
        parts.append(_activate(logits.float(), task).flip(axes))
    return torch.stack(parts).mean(dim=0) if len(parts) > 1 else parts[0]


def _activate(logits_BKXYZ: Tensor, task: Task) -> Tensor:
    return logits_BKXYZ.softmax(dim=1) if task.activation == "softmax" else logits_BKXYZ.sigmoid()


def _background(task: Task, shape: Triple) -> Tensor:
    """Probabilities (K, *shape) of a place with nothing in it."""
    probabilities_KXYZ = torch.zeros(task.channels, *shape)
    if task.activation == "softmax":
        probabilities_KXYZ[0] = 1
    return probabilities_KXYZ


def _foreground_box(image_CXYZ: Image, task: Task) -> tuple[slice, slice, slice]:
    """The box of the voxels that can belong to a structure, at least as large as a window where the volume is.

    Scaling leaves 0 where there is nothing: around a skull-stripped brain, and in the air of a CT window. Other images
    have no voxel of which that is known.
    """
    size = image_CXYZ.shape[1:]
    if task.intensity not in ("zscore_nonzero", "window"):
        return (slice(0, size[0]), slice(0, size[1]), slice(0, size[2]))
    mask = np.logical_or.reduce(image_CXYZ != 0)
    hits = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    x, y, z = (_grown(hit, side, full) for hit, side, full in zip(hits, task.patch, size, strict=True))
    return (x, y, z)


def _grown(hit: NDArray[np.intp], side: int, full: int) -> slice:
    """From the first hit to the last, with a margin, and to `side` voxels where the volume has as many."""
    if not len(hit):
        return slice(0, full)
    low, high = max(0, int(hit[0]) - MARGIN_VOXELS), min(full, int(hit[-1]) + 1 + MARGIN_VOXELS)
    length = max(high - low, min(side, full))
    start = min(max(0, (low + high - length) // 2), full - length)
    return slice(start, start + length)


def _all_flips(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every subset of the axes, as axes of a (B, C, X, Y, Z) tensor."""
    subsets = chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))
    return [tuple(axis + 2 for axis in subset) for subset in subsets]
