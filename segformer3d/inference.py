"""Whole-volume inference: an overlap-weighted sliding window, on the task's grid, brought back to the volume's own.

The window is the task's patch, the size that the model was trained at: a transformer's attention and the zero padding
of its grids depend on the size, and on hippocampus crops windows of another size cost 0.05 Dice.
"""

import re
from itertools import chain, combinations

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segformer3d.errors import ConfigurationError
from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task
from segformer3d.volumes import Image, Label, Volume, model_size, resample_image, scale_intensity

_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")
OVERLAP = 0.5
WINDOWS_AT_ONCE = 2


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


def predict_probabilities(
    model: SegFormer3D, task: Task, image_CXYZ: Image, device: torch.device, *, mirror: bool = True
) -> Tensor:
    """Class probabilities (K, X, Y, Z), float32 on the CPU, of a scaled image on the task's grid.

    With `mirror`, predictions for the image and its mirrored copies along the task's flip axes are averaged.
    """
    model.eval()
    flips = _all_flips(task.flip_axes) if mirror else [()]

    def window_probabilities(x_BCXYZ: Tensor) -> Tensor:
        parts = [_activate(model(x_BCXYZ.flip(axes)), task).flip(axes) for axes in flips]
        return torch.stack(parts).mean(dim=0)

    x_BCXYZ = torch.from_numpy(np.array(image_CXYZ))[None]
    with torch.inference_mode():
        y_BKXYZ = sliding_window_inference(
            x_BCXYZ,
            roi_size=task.patch,
            sw_batch_size=WINDOWS_AT_ONCE,
            predictor=window_probabilities,
            overlap=OVERLAP,
            mode="gaussian",
            padding_mode="replicate",
            sw_device=device,
            device=torch.device("cpu"),
        )
    probabilities: Tensor = y_BKXYZ[0].float()
    return probabilities


def predict_masks(model: SegFormer3D, task: Task, volume: Volume, device: torch.device) -> NDArray[np.bool_]:
    """One mask per structure (S, X, Y, Z) on the volume's own RAS grid."""
    size = model_size(volume, task)
    image = resample_image(scale_intensity(volume.image, task), size)
    probabilities = predict_probabilities(model, task, image, device)
    own = tuple(volume.image.shape[1:])
    if own != size:
        probabilities = F.interpolate(probabilities[None], size=own, mode="trilinear", align_corners=False)[0]
    return decide(probabilities, task)


def decide(probabilities_KXYZ: Tensor, task: Task) -> NDArray[np.bool_]:
    """Probabilities to one mask per structure (S, X, Y, Z): the likeliest class, or every region above one half."""
    if task.activation == "sigmoid":
        return (probabilities_KXYZ > 0.5).numpy()
    winner = probabilities_KXYZ.argmax(dim=0)
    return torch.stack([winner == channel for channel in range(1, task.channels)]).numpy()


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


def _activate(logits_BKXYZ: Tensor, task: Task) -> Tensor:
    return logits_BKXYZ.softmax(dim=1) if task.activation == "softmax" else logits_BKXYZ.sigmoid()


def _all_flips(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every subset of the axes, as axes of a (B, C, X, Y, Z) tensor."""
    subsets = chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1))
    return [tuple(axis + 2 for axis in subset) for subset in subsets]
