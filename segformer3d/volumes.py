"""Reading one case from NIfTI, checking it, and bringing it to the orientation and grid that the model works on.

Everything that may be wrong with a hospital's file is found here and said in one line (`CaseError`); nothing damaged
gets past. Arrays are (C, X, Y, Z) in RAS+ orientation (X to the right, Y to the front, Z up), whatever the axes of the
file were; `write_label` is the way back to the file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from segformer3d.boxes import nonzero_box
from segformer3d.case_checks import check_image, check_labels, for_task
from segformer3d.config import Triple
from segformer3d.errors import CaseError
from segformer3d.intensity import Image
from segformer3d.lacks import present_channels, present_task
from segformer3d.layouts.files import CaseFiles
from segformer3d.nifti import MOST_VOXELS, Affine, Scan, read_nifti, to_scan
from segformer3d.task import Task

Label = NDArray[np.int16]
_Value = TypeVar("_Value", bound=np.generic)

# Two files of one case describe the same grid when their affines agree to this many mm.
AFFINE_TOLERANCE_MM = 1e-2
# A spacing within 1 % of the task's is left alone: interpolating would blur more than the difference.
SPACING_TOLERANCE = 0.01


@dataclass(frozen=True)
class Volume:
    """One case in RAS orientation, on its own grid.

    Attributes:
        image: (C, X, Y, Z) float32, every value finite.
        label: (X, Y, Z) int16 label values, or None where the case has no label.
        affine: (4, 4), voxel indices to mm in RAS+.
        source_affine: (4, 4), the affine of the file as it was stored.
    """

    image: Image
    label: Label | None
    affine: Affine
    source_affine: Affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y and Z."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class StoredCase:
    """One case as its files hold it: checked, in RAS order, its values not converted yet.

    Attributes:
        images: its image files, one for each contrast or one for all.
        channels: the contrasts, each (X, Y, Z), of the files' own types.
        extremes: the lowest and the highest value of each contrast.
        label: (X, Y, Z) of the file's own type, or None where the case has no label.
        voxels: how many voxels each label value has; empty without a label.
    """

    images: tuple[Scan, ...]
    channels: tuple[NDArray[Any], ...]
    extremes: tuple[tuple[float, float], ...]
    label: NDArray[Any] | None
    voxels: Mapping[int, int]

    @property
    def shape(self) -> Triple:
        """Voxels along X, Y and Z."""
        return self.images[0].shape

    @property
    def affine(self) -> Affine:
        """(4, 4), voxel indices to mm in RAS+."""
        return self.images[0].affine


def read_case(files: CaseFiles, task: Task) -> Volume:
    """Read and check one case.

    Raises:
        CaseError: a file is missing or damaged, image, label and task do not fit together, or the case is quarantined.
    """
    return _converted(read_stored(files, task), task, present_channels(task, files.lacks))


def _converted(stored: StoredCase, task: Task, places: Sequence[int]) -> Volume:
    """A case's values as the model takes them, its contrasts in their places; one that is absent is 0."""
    image = np.zeros((len(task.modalities), *stored.shape), np.float32)
    for place, channel in zip(places, stored.channels, strict=True):
        image[place] = channel
    label = None if stored.label is None else np.ascontiguousarray(stored.label, dtype=np.int16)
    return Volume(image, label, stored.affine, stored.images[0].source_affine)


def read_stored(files: CaseFiles, task: Task) -> StoredCase:
    """Read and check one case, as `read_case` does, but leave its values as they are, and absent contrasts out.

    Raises:
        CaseError: a file is missing or damaged, image, label and task do not fit together, or the case is quarantined.
    """
    files, task = for_task(files, task), present_task(task, files.lacks)
    names = _spoken(len(files.images), task)
    images = [read_nifti(path, name) for path, name in zip(files.images, names, strict=True)]
    return _stored(images, None if files.label is None else read_nifti(files.label, "label"), task)


def case_in_memory(images: Sequence[SpatialImage], task: Task) -> Volume:
    """`read_case` for images that are in memory already, one a contrast.

    Raises:
        CaseError: images and task do not fit together.
    """
    names = _spoken(len(images), task)
    stored = _stored([to_scan(i, name) for i, name in zip(images, names, strict=True)], None, task)
    return _converted(stored, task, range(len(task.modalities)))


def _stored(images: Sequence[Scan], labelled: Scan | None, task: Task) -> StoredCase:
    _check_grids(images, "the images of its contrasts")
    channels = tuple(channel for scan in images for channel in scan.channels())
    extremes = check_image(channels, task)
    label, voxels = None, {}
    if labelled is not None:
        _check_grids([images[0], labelled], "image and label")
        label = _one_volume(labelled)
        voxels = _count_values(label, task)
    stored = StoredCase(tuple(images), channels, extremes, label, voxels)
    _check_size(stored, task)
    return stored


def _spoken(files: int, task: Task) -> list[str]:
    """What each image file is called in messages."""
    if files == 1 or files != len(task.modalities):
        return ["image"] * files
    return [f"{name} image" for name in task.modalities]


def _check_grids(scans: Sequence[Scan], what: str) -> None:
    first = scans[0]
    for scan in scans[1:]:
        if scan.shape != first.shape:
            raise CaseError(f"{what} differ in shape: {first.shape} and {scan.shape} voxels")
        if not np.allclose(scan.affine, first.affine, rtol=0, atol=AFFINE_TOLERANCE_MM):
            raise CaseError(f"{what} differ in position, orientation or spacing (their affines disagree)")


def _one_volume(scan: Scan) -> NDArray[Any]:
    if len(scan.channels()) != 1:
        raise CaseError("the label must be one 3D volume of label values")
    return scan.channels()[0]


def _count_values(label: NDArray[Any], task: Task) -> dict[int, int]:
    """How many voxels each legal value has; counting each in a box is many times as fast as sorting all."""
    inside = label[nonzero_box(label)]
    counts = {value: int(np.count_nonzero(inside == value)) for value in task.label_values}
    counts[0] = label.size - int(np.count_nonzero(inside))
    if sum(counts.values()) < label.size:
        check_labels(np.unique(label), task)
    return counts


def _check_size(stored: StoredCase, task: Task) -> None:
    spacing = spacing_of(stored.affine)
    size = size_on_grid(stored.shape, spacing, task)
    if math.prod(size) > MOST_VOXELS:
        raise CaseError(
            f"with a spacing of {' x '.join(f'{mm:g}' for mm in spacing)} mm the image would have "
            f"{' x '.join(map(str, size))} voxels on the grid of task {task.name}; correct the spacing in its header"
        )


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel size in mm along the three axes of a grid."""
    x, y, z = (float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    return (x, y, z)


def model_size(volume: Volume, task: Task) -> Triple:
    """The volume's size in voxels on the task's grid."""
    x, y, z = volume.image.shape[1:]
    return size_on_grid((x, y, z), volume.spacing, task)


def size_on_grid(size: Triple, spacing: tuple[float, float, float], task: Task) -> Triple:
    """The size in voxels on the task's grid of a volume of `size` voxels of `spacing` mm."""
    if task.spacing is None:
        return size
    ratios = [own / wanted for own, wanted in zip(spacing, task.spacing, strict=True)]
    x, y, z = (
        n if abs(ratio - 1) <= SPACING_TOLERANCE else max(1, round(n * ratio))
        for n, ratio in zip(size, ratios, strict=True)
    )
    return (x, y, z)


def resample_image(image_CXYZ: Image, size: Triple) -> Image:
    """Trilinear interpolation over the same field of view (voxel edges, not centres, stay where they are)."""
    if image_CXYZ.shape[1:] == size:
        return image_CXYZ
    import torch  # takes seconds, which those who only read do without
    from torch.nn import functional as F

    image = torch.from_numpy(np.ascontiguousarray(image_CXYZ))[None]
    return F.interpolate(image, size=size, mode="trilinear", align_corners=False)[0].numpy()


def resample_label(label_XYZ: Label, size: Triple) -> Label:
    """Nearest neighbour over the same field of view as `resample_image`."""
    if label_XYZ.shape == size:
        return label_XYZ
    import torch
    from torch.nn import functional as F

    label = torch.from_numpy(label_XYZ.astype(np.float32))[None, None]
    return F.interpolate(label, size=size, mode="nearest-exact")[0, 0].numpy().astype(np.int16)


def write_label(path: Path, label_XYZ: Label, volume: Volume) -> None:
    """Write a label map of the volume's RAS grid on the grid, orientation and spacing of the file it came from."""
    image = nib.Nifti1Image(to_source(label_XYZ, volume), volume.source_affine, dtype=np.int16)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def to_source(array_XYZ: NDArray[_Value], volume: Volume) -> NDArray[_Value]:
    """An array on the volume's RAS grid, with the axes of the file that the volume came from."""
    orientation = nib.orientations.io_orientation(volume.source_affine)
    transform = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
    return np.ascontiguousarray(nib.orientations.apply_orientation(array_XYZ, transform))
