"""The voxels of a scan, decoded one slice at a time: memory holds the volume and one slice more."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.dicom.checks import Scan
from segformer3d.dicom.instances import Plane
from segformer3d.dicom.library import refusing
from segformer3d.errors import CaseError

Voxels = NDArray[Any]  # int16, uint16, int32 or float32

_WHOLE_TYPES = (np.dtype(np.int16), np.dtype(np.uint16), np.dtype(np.int32))
_FLOAT = np.dtype(np.float32)


def read_voxels(scan: Scan) -> Voxels:
    """The scan (columns, rows, slices) in the units that its rescale slopes and intercepts give, slice by slice.

    The type is the smallest that holds every value which the headers allow: a CT is int16. Slopes that are no whole
    numbers (PET) give float32, computed in float64.

    Raises:
        CaseError: a file is truncated, has no pixels, or cannot be decoded.
    """
    voxels_IJK = np.empty(scan.grid.shape, voxel_type(scan))
    for number, plane in enumerate(scan.planes):
        _put(voxels_IJK[:, :, number], _decode(plane, number, len(scan.planes)).T)
    return voxels_IJK


def voxel_type(scan: Scan) -> np.dtype[Any]:
    """What `read_voxels` returns, from the headers alone."""
    lows, highs = zip(*map(_limits, scan.planes), strict=True)
    whole = all(plane.slope.is_integer() and plane.intercept.is_integer() for plane in scan.planes)
    if whole:
        for dtype in _WHOLE_TYPES:
            if np.iinfo(dtype).min <= min(lows) and max(highs) <= np.iinfo(dtype).max:
                return dtype
    return _FLOAT


def _limits(plane: Plane) -> tuple[float, float]:
    """The lowest and the highest value that a plane can hold."""
    stored, signed = plane.bits
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    ends = sorted((plane.slope * low + plane.intercept, plane.slope * high + plane.intercept))
    return ends[0], ends[1]


def _put(slice_IJ: Voxels, values_IJ: NDArray[np.float64]) -> None:
    """Fill a slice; a decoder may return more bits than the header says, and they must not wrap around."""
    if slice_IJ.dtype != _FLOAT:
        allowed = np.iinfo(slice_IJ.dtype)
        if values_IJ.min() < allowed.min or values_IJ.max() > allowed.max:
            raise CaseError("it holds values of more bits than its header says; export the series again")
    slice_IJ[:] = values_IJ


def _decode(plane: Plane, number: int, count: int) -> NDArray[np.float64]:
    """(rows, columns) in the units of the scan."""
    where = f"slice {number + 1} of {count}"
    with refusing(f"{where} is truncated or damaged; export the series again"):
        stored_RC = _stored(plane)
    if stored_RC is None:
        raise CaseError(f"{where} has no pixel data; export the series with its images")
    if stored_RC.shape != plane.size:
        raise CaseError(f"{where} has not the size that its header says; export the series again")
    return stored_RC.astype(np.float64) * plane.slope + plane.intercept


def _stored(plane: Plane) -> NDArray[Any] | None:
    """The stored values (rows, columns) of a plane, or None where the file has none."""
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID

    if plane.frame is not None:  # reads no more than this frame
        return pixel_array(plane.path, index=plane.frame, transfer_syntax_uid=UID(plane.encoding))
    dataset = dcmread(plane.path, force=True)
    dataset.file_meta.TransferSyntaxUID = UID(plane.encoding)
    return dataset.pixel_array if "PixelData" in dataset else None
