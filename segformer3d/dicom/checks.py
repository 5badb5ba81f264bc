"""Whether a series is one whole scan: planes of one patient, side by side at even distances, that can be decoded.

Each refusal is one line: what was found, the rule, the remedy. None holds a name, an id, a date or a UID.
"""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from segformer3d.dicom.geometry import Grid, Points, make_grid, normal_of, positions_of
from segformer3d.dicom.instances import APART, VOLUMES, Instance, Plane
from segformer3d.dicom.library import DEFLATED, decoder_of
from segformer3d.dicom.series import Series
from segformer3d.errors import CaseError
from segformer3d.nifti import MOST_VOXELS

FEWEST_SLICES = 3
# Cosines are written with a few decimals only.
DIRECTION_TOLERANCE = 1e-3
LENGTH_TOLERANCE = 1e-3
# A slice may be off the even grid by this share of the distance between slices: scanners round positions.
POSITION_TOLERANCE = 0.05
# Tangent of the angle between the stack and the normal of its slices: a tenth of a degree. Gantries tilt by halves.
TILT_TOLERANCE = math.tan(math.radians(0.1))

# Which package decodes what pydicom cannot by itself or with what is installed.
_DECODERS = {"1.2.840.10008.1.2.4.5": "python-gdcm", "1.2.840.10008.1.2.4.7": "python-gdcm"}
_OTHER_DECODER = "pylibjpeg-openjpeg pylibjpeg"


@dataclass(frozen=True, eq=False)
class Scan:
    """A series that is a whole scan: its planes in order along the normal, and their grid."""

    series: Series
    planes: tuple[Plane, ...]
    grid: Grid

    @property
    def first(self) -> Instance:
        """One of its files, for what all of them say alike."""
        return self.series.instances[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the headers announce but is not there: not sure enough to refuse the scan for it."""
        announced, there = max(instance.announced or 0 for instance in self.series.instances), len(self.planes)
        if announced <= there:
            return ()
        return (f"its headers announce {announced} images, {there} are here; see that the export is complete",)


def check_series(series: Series, modality: str | None = None) -> Scan:
    """A series as a scan.

    Args:
        series: its files.
        modality: "CT", "MR" or "PT" where the task takes nothing else.

    Raises:
        CaseError: it is something else, mixed, incomplete, or cannot be decoded.
    """
    _check_whole(series)
    _check_kind(series, modality)
    planes = [plane for instance in series.instances for plane in instance.planes]
    _check_alike(planes)
    _check_decoders(planes)
    ordered = _ordered(planes)
    _check_stack(series, ordered)
    return Scan(series, tuple(ordered), make_grid(ordered, series.instances[0].frame_of_reference))


def _check_whole(series: Series) -> None:
    if series.damaged_beside:
        raise CaseError(
            f"{series.damaged_beside} files among its slices are empty, damaged or without pixels; export the series "
            "again"
        )
    if series.conflicting:
        raise CaseError(
            f"{series.conflicting} slices are there twice with different contents under one UID; export the series "
            "again into an empty folder"
        )
    if _differ(series, lambda instance: instance.patient):
        raise CaseError("it holds slices of several patients; correct the series UIDs or the patient ids at the source")
    if _differ(series, lambda instance: instance.study):
        raise CaseError("it holds slices of several studies; correct the series UIDs at the source")
    if _differ(series, lambda instance: instance.frame_of_reference):
        raise CaseError(
            "its slices are in several frames of reference; export each of its scans as a series of its own"
        )


def _check_kind(series: Series, modality: str | None) -> None:
    found = {VOLUMES.get(instance.sop_class, "") for instance in series.instances}
    if "" in found:
        raise CaseError("it is no CT, MR or PET scan but another kind of image, such as a screen capture; leave it out")
    if len(found) > 1:
        raise CaseError(f"it mixes {' and '.join(sorted(found))}; export each of its scans as a series of its own")
    if any(instance.localizer for instance in series.instances):
        raise CaseError("it is a localizer; leave it out")
    if any(instance.burned_in for instance in series.instances):
        raise CaseError("text is burned into its images, which may name the patient; export the original series")
    _check_grey({instance.photometric for instance in series.instances})
    if any(instance.looked_up for instance in series.instances):
        raise CaseError("its values need a modality look-up table; export it with rescale slope and intercept instead")
    if modality is not None and found != {modality}:
        raise CaseError(f"it is a {min(found)} scan; the task takes {modality}")


def _check_grey(photometric: Set[str]) -> None:
    if "" in photometric:
        raise CaseError("some of its files end within the header; export the series again")
    if "MONOCHROME1" in photometric:
        raise CaseError(
            "its grey values are inverted (MONOCHROME1), so their scale is unsure; export it as MONOCHROME2"
        )
    if photometric != {"MONOCHROME2"}:
        raise CaseError("its pixels have colours; a scan has one grey value a voxel (MONOCHROME2); leave it out")


def _check_decoders(planes: Sequence[Plane]) -> None:
    for encoding in sorted({plane.encoding for plane in planes}):
        name, usable = decoder_of(encoding)
        if not name:
            raise CaseError("its pixels are encoded in an unknown way; export it uncompressed")
        if encoding == DEFLATED and planes[0].frame is not None:
            raise CaseError("it is a deflated multi-frame file, which cannot be read by frames; export it uncompressed")
        if not usable:
            package = next((found for start, found in _DECODERS.items() if encoding.startswith(start)), _OTHER_DECODER)
            raise CaseError(
                f"nothing installed decodes {name}; run `pip install {package}` where segfed is installed, or export "
                "it uncompressed"
            )


def _check_alike(planes: Sequence[Plane]) -> None:
    if not all(map(_is_complete, planes)):
        raise CaseError(
            "some slices do not say where they lie or how they are stored (position, orientation, pixel spacing, "
            "rows, columns, bits); export the original series"
        )
    sizes = {plane.size for plane in planes}
    if len(sizes) > 1:
        raise CaseError(
            f"its slices have {len(sizes)} different numbers of rows and columns; export each of its scans as a series "
            "of its own"
        )
    orientations = np.array([plane.orientation for plane in planes])
    if np.abs(orientations - orientations[0]).max() > DIRECTION_TOLERANCE:
        raise CaseError("its slices differ in orientation; export each of its scans as a series of its own")
    _check_directions(orientations[0])
    spacings = np.array([plane.spacing for plane in planes])
    if spacings.min() <= 0 or np.abs(spacings - spacings[0]).max() > LENGTH_TOLERANCE:
        raise CaseError(
            "its slices differ in pixel spacing, or have none; export each of its scans as a series of its own"
        )


def _is_complete(plane: Plane) -> bool:
    numbers = (*plane.position, *plane.orientation, *plane.spacing, plane.slope, plane.intercept)
    return all(map(math.isfinite, numbers)) and 0 not in plane.size and 1 <= plane.bits[0] <= 32


def _check_directions(orientation: Points) -> None:
    rows, columns = orientation[:3], orientation[3:]
    lengths = np.linalg.norm([rows, columns], axis=1)
    if np.abs(lengths - 1).max() > DIRECTION_TOLERANCE or abs(rows @ columns) > DIRECTION_TOLERANCE:
        raise CaseError("its row and column directions are not at right angles; export the original series")


def _ordered(planes: Sequence[Plane]) -> list[Plane]:
    """By position along the normal of the first: file names and instance numbers promise nothing."""
    order = np.argsort(_heights(planes), kind="stable")
    return [planes[index] for index in order]


def _heights(planes: Sequence[Plane]) -> Points:
    return positions_of(planes) @ normal_of(planes[0])


def _check_stack(series: Series, planes: Sequence[Plane]) -> None:
    if len(planes) < FEWEST_SLICES:
        raise CaseError(
            f"it has {len(planes)} slices; a scan needs {FEWEST_SLICES} or more: export all of them, or leave it out"
        )
    if len(planes) * math.prod(planes[0].size) > MOST_VOXELS:
        raise CaseError(f"it has more than {MOST_VOXELS:,} voxels, which no scan has; export the original series")
    gaps = np.diff(_heights(planes))
    _check_single(series, gaps)
    _check_gaps(gaps)
    _check_even(positions_of(planes), gaps)
    _check_tilt(planes)


def _check_single(series: Series, gaps: Points) -> None:
    """No two slices at one position: time points, echoes and b-values are scans of their own."""
    together = int((gaps <= LENGTH_TOLERANCE).sum())
    if together:
        raise CaseError(
            f"{together} of its {len(gaps) + 1} slices lie where another one lies{_apart(series)}; export each "
            "time point, echo or kind of image as a series of its own"
        )


def _apart(series: Series) -> str:
    """What tells its slices apart, as far as headers say."""
    columns = zip(APART.values(), zip(*(instance.apart for instance in series.instances), strict=True), strict=True)
    names = [name for name, values in columns if len(set(values)) > 1]
    return f" (they differ in {', '.join(names)})" if names else ""


def _check_gaps(gaps: Points) -> None:
    usual = float(np.median(gaps))
    missing = round(float((np.rint(gaps / usual) - 1).clip(0).sum()))
    if missing:
        raise CaseError(
            f"about {missing} slices are missing between the others (most are {usual:g} mm apart, the furthest "
            f"{gaps.max():g} mm); export the whole series"
        )


def _check_even(positions: Points, gaps: Points) -> None:
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    even = positions[0] + np.arange(len(positions))[:, None] * step
    off = float(np.linalg.norm(positions - even, axis=1).max())
    if off > POSITION_TOLERANCE * float(np.linalg.norm(step)):
        raise CaseError(
            f"its slices are unevenly spaced ({gaps.min():g} to {gaps.max():g} mm apart, one {off:.2g} mm off the even "
            "grid); export one scan with even spacing"
        )


def _check_tilt(planes: Sequence[Plane]) -> None:
    positions, normal = positions_of(planes), normal_of(planes[0])
    whole = positions[-1] - positions[0]
    along = float(whole @ normal)
    tangent = float(np.linalg.norm(whole - along * normal)) / along
    if tangent > TILT_TOLERANCE:
        raise CaseError(
            f"its slices are shifted sideways as with a gantry tilt of {math.degrees(math.atan(tangent)):.1f} degrees; "
            "have it resampled to upright slices (a scanner's console can), and bring those"
        )


def _differ(series: Series, value: Callable[[Instance], str]) -> bool:
    return len(set(map(value, series.instances))) > 1
