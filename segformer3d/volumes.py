"""Reading one case from NIfTI, checking it, and bringing it to the orientation and grid that the model works on.

Everything that may be wrong with a hospital's file is found here and said in one line (`CaseError`); nothing damaged
gets past. Arrays are (C, X, Y, Z) in RAS+ orientation (X to the right, Y to the front, Z up), whatever the axes of the
file were; `write_label` is the way back to the file.
"""

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray
from torch.nn import functional as F

from segformer3d.cases import CaseFiles
from segformer3d.config import Triple
from segformer3d.errors import CaseError
from segformer3d.tasks import Task

Image = NDArray[np.float32]
Label = NDArray[np.int16]
Affine = NDArray[np.float64]

# Two files of one case describe the same grid when their affines agree to this many mm.
AFFINE_TOLERANCE_MM = 1e-2
# A spacing within 1 % of the task's is left alone: interpolating would blur more than the difference.
SPACING_TOLERANCE = 0.01

# 1000 voxels a side: no scan comes near, but a header that gives a spacing in the wrong unit does.
MOST_VOXELS = 10**9

_DAMAGED = (OSError, EOFError, zlib.error)
_UNREADABLE = (ImageFileError, HeaderDataError, ValueError, OverflowError, MemoryError)


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
        x, y, z = (float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return (x, y, z)


def read_case(files: CaseFiles, task: Task) -> Volume:
    """Read and check one case.

    Raises:
        CaseError: a file is missing or damaged, or image, label and task do not fit together.
    """
    parts = [_read(path, "image") for path in files.images]
    _check_grids(parts, "the images of its contrasts")
    image = np.concatenate([_channels(part) for part in parts])
    check_image(image, task)
    label = None
    if files.label is not None:
        label_part = _read(files.label, "label")
        _check_grids([parts[0], label_part], "image and label")
        label = _label_values(label_part, task)
    volume = Volume(image, label, parts[0].canonical_affine, parts[0].source_affine)
    _check_size(volume, task)
    return volume


@dataclass(frozen=True)
class _Part:
    """One file's data in RAS order, with the affine before and after reordering."""

    data: NDArray[Any]
    canonical_affine: Affine
    source_affine: Affine


def _read(path: Path, what: str) -> _Part:
    if not path.is_file():
        raise CaseError(f"the {what} file is missing; restore it or take the case out of the list")
    with _unreadable(what):
        _check_gzip(path)
        source = nib.load(path)
    _check_header(source, what)
    with _unreadable(what):
        canonical = nib.as_closest_canonical(source)
        data = np.asanyarray(canonical.dataobj)
    if not (np.issubdtype(data.dtype, np.number) and not np.iscomplexobj(data)):
        raise CaseError(f"the {what} file holds {data.dtype} values; it must hold real numbers")
    return _Part(data, np.asarray(canonical.affine, np.float64), np.asarray(source.affine, np.float64))


@contextmanager
def _unreadable(what: str) -> Iterator[None]:
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # numbers of a damaged header
            yield
    except _DAMAGED as error:
        raise CaseError(f"the {what} file is truncated or damaged; export it again") from error
    except _UNREADABLE as error:
        raise CaseError(f"the {what} file is not a readable NIfTI file; export it again") from error


def _check_header(source: Any, what: str) -> None:
    """Before the axes are reordered: NiBabel can do that to sound images only."""
    if not isinstance(source, SpatialImage):
        raise CaseError(f"the {what} file is not a readable NIfTI file; export it again")
    if len(source.shape) not in (3, 4) or 0 in source.shape:
        raise CaseError(f"the {what} has the shape {source.shape}; it must be 3D, or 4D with the contrasts last")
    if not np.isfinite(source.affine).all() or np.isnan(nib.orientations.io_orientation(source.affine)).any():
        raise CaseError(f"the {what} file's affine is not invertible, so its voxels have no size; export it again")


def _check_gzip(path: Path) -> None:
    """Read a compressed file to its end: its checksum stands there, and nibabel stops before it.

    Without this, a flipped bit in a `.nii.gz` passes for data.
    """
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            while stream.read(2**20):
                pass


def _channels(part: _Part) -> Image:
    data = part.data if part.data.ndim == 4 else part.data[..., None]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return np.ascontiguousarray(np.moveaxis(data, -1, 0), dtype=np.float32)


def _check_grids(parts: Sequence[_Part], what: str) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.data.shape[:3] != first.data.shape[:3]:
            raise CaseError(f"{what} differ in shape: {first.data.shape[:3]} and {part.data.shape[:3]} voxels")
        if not np.allclose(part.canonical_affine, first.canonical_affine, rtol=0, atol=AFFINE_TOLERANCE_MM):
            raise CaseError(f"{what} differ in position, orientation or spacing (their affines disagree)")


def check_image(image: Image, task: Task) -> None:
    """See that an image (C, X, Y, Z) is what the task takes.

    Raises:
        CaseError: the number of contrasts is wrong, a voxel is not finite, or a contrast is empty.
    """
    if image.shape[0] != len(task.modalities):
        raise CaseError(
            f"the image has {image.shape[0]} contrasts; task {task.name} takes {len(task.modalities)} "
            f"({', '.join(task.modalities)})"
        )
    finite = np.isfinite(image)
    if not finite.all():
        raise CaseError(f"the image holds {int((~finite).sum())} voxels that are NaN or infinite")
    for name, channel in zip(task.modalities, image, strict=True):
        if channel.min() == channel.max():
            raise CaseError(f"the image is empty: every voxel of contrast {name} has the same value")


def _label_values(part: _Part, task: Task) -> Label:
    data = part.data[..., 0] if part.data.ndim == 4 and part.data.shape[3] == 1 else part.data
    if data.ndim != 3:
        raise CaseError("the label must be one 3D volume of label values")
    values = np.unique(data)
    wrong = [float(v) for v in values if not np.isfinite(v) or float(v) not in task.label_values]
    if wrong:
        legal = ", ".join(str(v) for v in task.label_values)
        raise CaseError(f"the label holds the value {wrong[0]:.10g}; task {task.name} knows {legal}")
    return np.ascontiguousarray(data, dtype=np.int16)


def _check_size(volume: Volume, task: Task) -> None:
    size = model_size(volume, task)
    if math.prod(size) > MOST_VOXELS:
        raise CaseError(
            f"with a spacing of {' x '.join(f'{mm:g}' for mm in volume.spacing)} mm the image would have "
            f"{' x '.join(map(str, size))} voxels on the grid of task {task.name}; correct the spacing in its header"
        )


def scale_intensity(image_CXYZ: Image, task: Task) -> Image:
    """Intensities as the model sees them, scaled for each channel alone: scanners differ by orders of magnitude.

    It works in float64 on one plane after another: a large CT in float64 would be larger than all that comes after it.
    """
    scaled_CXYZ = np.empty(image_CXYZ.shape, np.float32)
    for channel_XYZ, scaled_XYZ in zip(image_CXYZ, scaled_CXYZ, strict=True):
        scale = _window_scale if task.intensity in ("window", "minmax") else _standard_scale
        scale(channel_XYZ, scaled_XYZ, task)
    return scaled_CXYZ


def _window_scale(channel_XYZ: Image, scaled_XYZ: Image, task: Task) -> None:
    low, high = task.window or (float(channel_XYZ.min()), float(channel_XYZ.max()))
    for plane_YZ, scaled_YZ in zip(channel_XYZ, scaled_XYZ, strict=True):
        scaled_YZ[:] = np.clip((plane_YZ.astype(np.float64) - low) / (high - low), 0.0, 1.0)


def _standard_scale(channel_XYZ: Image, scaled_XYZ: Image, task: Task) -> None:
    nonzero = task.intensity == "zscore_nonzero"
    mean, spread = _mean_and_spread([plane[plane != 0] if nonzero else plane for plane in channel_XYZ])
    for plane_YZ, scaled_YZ in zip(channel_XYZ, scaled_XYZ, strict=True):
        scaled_YZ[:] = (plane_YZ.astype(np.float64) - mean) / spread
        if nonzero:
            scaled_YZ[plane_YZ == 0] = 0


def _mean_and_spread(parts: Sequence[Image]) -> tuple[float, float]:
    """Mean and standard deviation of all values together; a spread of 0 becomes 1."""
    count = max(1, sum(part.size for part in parts))
    mean = math.fsum(float(part.sum(dtype=np.float64)) for part in parts) / count
    variance = math.fsum(float(np.square(part.astype(np.float64) - mean).sum()) for part in parts) / count
    return mean, math.sqrt(variance) or 1.0


def model_size(volume: Volume, task: Task) -> Triple:
    """The volume's size in voxels on the task's grid."""
    size = volume.image.shape[1:]
    if task.spacing is None:
        return (size[0], size[1], size[2])
    ratios = [own / wanted for own, wanted in zip(volume.spacing, task.spacing, strict=True)]
    x, y, z = (
        n if abs(ratio - 1) <= SPACING_TOLERANCE else max(1, round(n * ratio))
        for n, ratio in zip(size, ratios, strict=True)
    )
    return (x, y, z)


def resample_image(image_CXYZ: Image, size: Triple) -> Image:
    """Trilinear interpolation over the same field of view (voxel edges, not centres, stay where they are)."""
    if image_CXYZ.shape[1:] == size:
        return image_CXYZ
    image = torch.from_numpy(np.ascontiguousarray(image_CXYZ))[None]
    return F.interpolate(image, size=size, mode="trilinear", align_corners=False)[0].numpy()


def resample_label(label_XYZ: Label, size: Triple) -> Label:
    """Nearest neighbour over the same field of view as `resample_image`."""
    if label_XYZ.shape == size:
        return label_XYZ
    label = torch.from_numpy(label_XYZ.astype(np.float32))[None, None]
    return F.interpolate(label, size=size, mode="nearest-exact")[0, 0].numpy().astype(np.int16)


def write_label(path: Path, label_XYZ: Label, volume: Volume) -> None:
    """Write a label map of the volume's RAS grid on the grid, orientation and spacing of the file it came from."""
    to_source = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.io_orientation(volume.source_affine)
    )
    data = nib.orientations.apply_orientation(label_XYZ, to_source)
    image = nib.Nifti1Image(np.ascontiguousarray(data), volume.source_affine, dtype=np.int16)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
