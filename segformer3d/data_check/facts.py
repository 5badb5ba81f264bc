"""What the data gate knows of one case: plain numbers, a fingerprint and small pictures. All of it stays here.

Lengths are in mm and volumes in ml. Axes are named after the patient: X to the right, Y to the front, Z up.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.config import Triple

Grid = NDArray[np.float16]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Geometry:
    """Where a scan's voxels lie.

    Attributes:
        shape: voxels along X, Y and Z.
        spacing_mm: their size along X, Y and Z.
        axes: where the axes of the file lead to, such as "LPS".
        tilt_degrees: the largest angle between an axis of the grid and the patient's axis nearest to it.
        shear_degrees: how far the angles between the grid's own axes are from 90, at the most.
    """

    shape: Triple
    spacing_mm: tuple[float, float, float]
    axes: str
    tilt_degrees: float
    shear_degrees: float

    @property
    def field_mm(self) -> tuple[float, float, float]:
        """The field of view along X, Y and Z."""
        x, y, z = (n * mm for n, mm in zip(self.shape, self.spacing_mm, strict=True))
        return (x, y, z)


@dataclass(frozen=True)
class ChannelFacts:
    """Intensities of one contrast.

    `lowest` and `highest` are those of all voxels; the rest is of an even sample of them (`intensities.SAMPLE`), and,
    the shares of background and zeros aside, of those outside the background.

    Attributes:
        dtype: the file's number type.
        percentiles: the values at `intensities.PERCENTILES`.
        levels: how many different values there are.
        zeros: share of voxels that are exactly 0.
        background: share of voxels of the value that stands for the background; 0 where none does.
        at_highest: share of the voxels outside the background that have the highest value.
        standardised: the values at `intensities.SHAPE_PERCENTILES`, less the mean and over the standard deviation:
            the histogram's shape, whatever the scanner's scale.
        in_structures: mean standardised value in each structure of the task; NaN where it is missing.
        content: a digest of the sample.
    """

    dtype: str
    lowest: float
    highest: float
    percentiles: tuple[float, ...]
    mean: float
    standard_deviation: float
    levels: int
    zeros: float
    background: float
    at_highest: float
    standardised: tuple[float, ...]
    in_structures: tuple[float, ...]
    content: str


@dataclass(frozen=True)
class StructureFacts:
    """One structure of a case's label.

    Attributes:
        volume_ml: how large it is.
        pieces: how many parts it has that do not touch, not even at a corner.
        stray: share of its voxels outside the largest part.
        edges: which sides of the image it touches.
        outside: share of its voxels that lie in the image's background.
    """

    name: str
    volume_ml: float
    pieces: int
    stray: float
    edges: tuple[str, ...]
    outside: float


@dataclass(frozen=True)
class CaseFacts:
    """A case that can be read.

    Attributes:
        channels: in the task's order.
        relations: correlation of each pair of contrasts, (0, 1), (0, 2), ..., outside the background.
        structures: None where the case has no label.
        cell_mm: the side of a cell of the fingerprint.
        fingerprint: (N, N, N) mean standardised intensity of the first contrast around the centre; 0 outside.
        pictures: an axial slice of each contrast, [Y, X], in shades of grey.
        outline: the label there, [Y, X], or None.
    """

    name: str
    patient: str
    geometry: Geometry
    channels: tuple[ChannelFacts, ...]
    relations: tuple[float, ...]
    structures: tuple[StructureFacts, ...] | None
    cell_mm: float
    fingerprint: Grid
    pictures: tuple[Picture, ...]
    outline: Picture | None

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values; what is undefined is null."""
        kept = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_NUMBERS}
        plain: dict[str, Any] = _plain(kept)
        return plain


@dataclass(frozen=True)
class Refused:
    """A case that cannot be read, and why."""

    name: str
    patient: str
    reason: str


_NOT_NUMBERS = ("fingerprint", "pictures", "outline", "cell_mm")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return _plain(asdict(value)) if hasattr(value, "__dataclass_fields__") else value
