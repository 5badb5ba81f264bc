"""One NIfTI file: read to its checksum, checked, and turned to RAS order, its values as they are stored.

A `.nii.gz` is decompressed once, by ISA-L (three times as fast as zlib), straight into the array that comes out, and
then read to its end: the checksum stands there, and without it a flipped bit would pass for data.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from segformer3d.config import Triple
from segformer3d.errors import CaseError

Affine = NDArray[np.float64]
# (axes, 2), NiBabel's: to which of X, Y and Z an axis goes, and whether it turns.
Orientation = NDArray[np.float64]

# 1000 voxels a side: no scan comes near, but a header that gives a spacing in the wrong unit does.
MOST_VOXELS = 10**9

# isal's stub takes its error for a value.
_DAMAGED: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, isal_zlib.error)  # type: ignore[assignment]
_UNREADABLE = (ImageFileError, HeaderDataError, ValueError, OverflowError, MemoryError)
_FORMATS = (nib.Nifti1Image, nib.Nifti2Image)
_HEADER_BYTES = 540  # of NIfTI-2, the longer one
_BLOCK = 2**20


@dataclass(frozen=True)
class Scan:
    """What one file holds, in RAS order.

    Attributes:
        data: (X, Y, Z) or (X, Y, Z, C), real numbers of the file's own type, scaled as its header says; often a view
            with strides of its own.
        affine: (4, 4), voxel indices of `data` to mm in RAS+.
        source_affine: (4, 4), the affine of the file as it was stored.
    """

    data: NDArray[Any]
    affine: Affine
    source_affine: Affine

    @property
    def shape(self) -> Triple:
        """Voxels along X, Y and Z."""
        x, y, z = self.data.shape[:3]
        return (x, y, z)

    def channels(self) -> tuple[NDArray[Any], ...]:
        """The contrasts, each (X, Y, Z)."""
        return tuple(np.moveaxis(self.data, 3, 0)) if self.data.ndim == 4 else (self.data,)


def read_nifti(path: Path, what: str) -> Scan:
    """Read and check one file; `what` says in messages which of a case's files it is.

    Raises:
        CaseError: it is missing, damaged, no NIfTI, or no volume of real numbers.
    """
    _check_file(path, what)
    with _opened(path, what, to_the_end=True) as (source, orientation):
        return _in_order(source, orientation, what)


def to_scan(source: SpatialImage, what: str) -> Scan:
    """The same of an image in memory.

    Raises:
        CaseError: it is no volume of real numbers.
    """
    return _in_order(source, _check_header(source, what), what)


def _in_order(source: SpatialImage, orientation: Orientation, what: str) -> Scan:
    with _unreadable(what):
        data = nib.orientations.apply_orientation(np.asanyarray(source.dataobj), orientation)
    if data.dtype.names is not None:
        kind = "".join(data.dtype.names)
        raise CaseError(
            f"the {what} file holds colours ({kind}); it must hold real numbers, one a voxel; export it again"
        )
    if not np.issubdtype(data.dtype, np.number) or np.iscomplexobj(data):
        raise CaseError(f"the {what} file holds {data.dtype} values; it must hold real numbers")
    to_file = nib.orientations.inv_ornt_aff(orientation, source.shape)
    return Scan(data, np.asarray(source.affine @ to_file, np.float64), np.asarray(source.affine, np.float64))


def read_grid(path: Path, what: str) -> tuple[Triple, tuple[float, float, float]]:
    """Voxels along X, Y and Z and their size in mm, in RAS order, from a file's header alone.

    Raises:
        CaseError: it is missing, damaged, or no NIfTI.
    """
    _check_file(path, what)
    with _opened(path, what, to_the_end=False) as (source, orientation):
        grid = zip(orientation[:, 0].astype(int).tolist(), source.shape, source.header.get_zooms(), strict=False)
        (_, x, x_mm), (_, y, y_mm), (_, z, z_mm) = sorted((axis, int(size), float(mm)) for axis, size, mm in grid)
    return (x, y, z), (x_mm, y_mm, z_mm)


def _check_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise CaseError(f"the {what} file is missing; restore it or take the case out of the list")


@contextmanager
def _opened(path: Path, what: str, *, to_the_end: bool) -> Iterator[tuple[Any, Orientation]]:
    """The image with a header that was checked, and how its axes lie.

    `to_the_end` reads what is compressed to its checksum afterwards.
    """
    if path.suffix != ".gz":
        with _unreadable(what):
            source = nib.load(path)
        yield source, _check_header(source, what)
        return
    with _unreadable(what):
        stream = igzip.open(path)
    with stream:
        with _unreadable(what):
            source = _load(stream)
        yield source, _check_header(source, what)
        with _unreadable(what):
            while to_the_end and stream.read(_BLOCK):
                pass


def _load(stream: gzip.GzipFile) -> Any:
    start = stream.read(_HEADER_BYTES)
    stream.seek(0)
    for form in _FORMATS:
        if form.header_class.may_contain_header(start):
            return form.from_stream(stream)
    raise ImageFileError("neither NIfTI-1 nor NIfTI-2")


@contextmanager
def _unreadable(what: str) -> Iterator[None]:
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # numbers of a damaged header
            yield
    except _DAMAGED as error:
        raise CaseError(f"the {what} file is truncated or damaged; export it again") from error
    except _UNREADABLE as error:
        raise CaseError(f"the {what} file is not a readable NIfTI file; export it again") from error


def _check_header(source: Any, what: str) -> Orientation:
    """How the axes lie to RAS; NiBabel can reorder those of sound images only."""
    if not isinstance(source, SpatialImage):
        raise CaseError(f"the {what} file is not a readable NIfTI file; export it again")
    if len(source.shape) not in (3, 4) or 0 in source.shape:
        raise CaseError(f"the {what} has the shape {source.shape}; it must be 3D, or 4D with the contrasts last")
    orientation = nib.orientations.io_orientation(source.affine) if np.isfinite(source.affine).all() else None
    if orientation is None or np.isnan(orientation).any():
        raise CaseError(f"the {what} file's affine is not invertible, so its voxels have no size; export it again")
    return np.asarray(orientation, np.float64)
