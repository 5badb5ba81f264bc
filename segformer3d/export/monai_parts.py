"""What a MONAI bundle of ours is made of besides MONAI's own parts, so that it gives segfed's label maps to the voxel.

A bundle brings this package along, as source. Its configuration reads, orients and saves images with MONAI's
transforms; for scaling, resampling, windows and labels it names the parts here. Each is a thin coat over the function
that `segfed predict` calls, in the interface that MONAI expects.
"""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.utils import scale_affine
from monai.utils import TraceKeys
from torch import Tensor

from segformer3d.case_checks import check_image
from segformer3d.cases import find_images
from segformer3d.inference import decide, masks_to_label, probability_slabs
from segformer3d.intensity import scale_intensity
from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task
from segformer3d.volumes import Volume, model_size, resample_image
from segformer3d.windows import resample

Items = Mapping[Hashable, Any]
NAME = "filename_or_obj"  # where MONAI keeps the name that a label map is saved under


def list_images(path: str) -> list[dict[str, Any]]:
    """The cases at a path, one file or a folder, as MONAI's datasets take them: {"image": files, "name": case}.

    Raises:
        DataError: there is no image.
    """
    return [{"image": [str(file) for file in case.images], "name": case.name} for case in find_images(Path(path))]


class CheckImaged(MapTransform):  # type: ignore[misc]
    """Refuse an image that is not what the task takes, and call it by its case's name, not by that of its first file.

    Raises:
        CaseError: the number of contrasts is wrong, or the image is empty, or holds NaN.
    """

    def __init__(self, keys: str, task: Task) -> None:
        super().__init__(keys)
        self._task = task

    def __call__(self, data: Items) -> dict[Hashable, Any]:
        """Check each image (C, X, Y, Z)."""
        for key in self.key_iterator(data):
            check_image(tuple(_array(data[key])), self._task)
            data[key].meta[NAME] = f"{data['name']}.nii.gz"
        return dict(data)


class ScaleIntensityd(MapTransform):  # type: ignore[misc]
    """`segformer3d.intensity.scale_intensity`, each contrast for itself, in float64."""

    def __init__(self, keys: str, task: Task) -> None:
        super().__init__(keys)
        self._task = task

    def __call__(self, data: Items) -> dict[Hashable, Any]:
        """Scale each image (C, X, Y, Z)."""
        scaled = dict(data)
        for key in self.key_iterator(data):
            scaled[key] = _like(torch.from_numpy(scale_intensity(_array(data[key]), self._task)), data[key])
        return scaled


class ToTaskGridd(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """`segformer3d.volumes.resample_image` to the task's spacing: the field of view keeps its edges, not its centres.

    An image within 1 % of that spacing stays as it is, and so do all where the task has none. The inverse, which
    MONAI's `Invertd` calls with probabilities, interpolates them back to the size that the image had.
    """

    def __init__(self, keys: str, task: Task) -> None:
        super().__init__(keys)
        self._task = task

    def __call__(self, data: Items) -> dict[Hashable, Any]:
        """Resample each RAS image (C, X, Y, Z)."""
        moved = dict(data)
        for key in self.key_iterator(data):
            image, affine = _array(data[key]), data[key].affine.numpy()
            size = model_size(Volume(image, None, affine, affine), self._task)
            resampled = _like(torch.from_numpy(resample_image(image, size)), data[key])
            onto = scale_affine(image.shape[1:], size)
            moved[key] = self.push_transform(resampled, affine=onto, orig_size=image.shape[1:])
        return moved

    def inverse(self, data: Items) -> dict[Hashable, Any]:
        """Bring each map (K, X, Y, Z) back to the size of the image."""
        moved = dict(data)
        for key in self.key_iterator(data):
            values_KXYZ = data[key]
            size, wanted = tuple(values_KXYZ.shape[1:]), tuple(self.pop_transform(values_KXYZ)[TraceKeys.ORIG_SIZE])
            if size != wanted:
                slabs = resample(iter([values_KXYZ.as_tensor()]), size, wanted)
                moved[key] = _like(torch.cat(list(slabs), dim=1), values_KXYZ)
                with self.trace_transform(False):  # what moves is the affine alone
                    self.push_transform(moved[key], affine=scale_affine(size, wanted))
        return moved


class SlidingWindows(Inferer):  # type: ignore[misc]
    """`segformer3d.inference.probability_slabs`: blended windows of the task's patch, mirrored where it says so."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task

    def __call__(self, inputs: Tensor, network: SegFormer3D, *args: Any, **kwargs: Any) -> Tensor:
        """Scaled images (B, C, X, Y, Z) on the task's grid to class probabilities (B, K, X, Y, Z)."""
        predicted = [
            torch.cat(
                list(probability_slabs(network, self._task, image, inputs.device, mirror=self._task.mirror)), dim=1
            )
            for image in _array(inputs)
        ]
        probabilities_BKXYZ: Tensor = _like(torch.stack(predicted), inputs)
        return probabilities_BKXYZ


class ToLabeld(MapTransform):  # type: ignore[misc]
    """Class probabilities (K, X, Y, Z) to a label map (1, X, Y, Z) of the values that the task's label files hold."""

    def __init__(self, keys: str, task: Task) -> None:
        super().__init__(keys)
        self._task = task

    def __call__(self, data: Items) -> dict[Hashable, Any]:
        """Decide on each map."""
        decided = dict(data)
        for key in self.key_iterator(data):
            label_XYZ = masks_to_label(decide(data[key].as_tensor(), self._task), self._task)
            decided[key] = _like(torch.from_numpy(label_XYZ[None]), data[key])
        return decided


def _array(image: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The voxels of an image, on the CPU."""
    return image.detach().cpu().numpy()


def _like(values: Tensor, image: Tensor) -> MetaTensor:
    """Values of any type with what MONAI knows of an image: position, and the transforms that led to it."""
    return MetaTensor(values).copy_meta_from(image)
