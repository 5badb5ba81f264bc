"""What is known of a DICOM file once its header was read: its series, its patient, its slices.

Classic files hold one slice. Enhanced (multi-frame) files hold many, whose positions stand in functional groups that
all frames share or that each has for itself. Here both are the same: planes.
"""

from dataclasses import dataclass
from pathlib import Path

Numbers = tuple[float, ...]

# What holds slices of one scan, with the modality.
VOLUMES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced: many slices in one file
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # enhanced, converted from single slices
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # of masks, of a label map
CONTOURS = ("1.2.840.10008.5.1.4.1.1.481.3",)
# What tells slices at one position apart: said when a series is refused for them.
APART = {
    "TemporalPositionIdentifier": "time point",
    "EchoTime": "echo time",
    "InversionTime": "inversion time",
    "DiffusionBValue": "b-value",
    "TriggerTime": "trigger time",
    "FlipAngle": "flip angle",
    "AcquisitionNumber": "acquisition",
    "ImageType": "kind of image",
}


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice, as its header describes it; lengths and directions that the header does not give are NaN.

    Attributes:
        path: its file.
        frame: its number in a multi-frame file, from 0, or None in a classic one.
        position: centre of the first voxel in mm, LPS (x to the left, y to the back, z up).
        orientation: directions in which column and row numbers grow (six cosines, LPS).
        spacing: mm from row to row, and from column to column.
        size: rows and columns.
        slope, intercept: a stored value v stands for slope * v + intercept.
        bits: bits of a stored value, 0 where the header does not say, and whether it is signed.
        encoding: UID of the transfer syntax.
    """

    path: Path
    frame: int | None
    position: Numbers
    orientation: Numbers
    spacing: Numbers
    size: tuple[int, int]
    slope: float
    intercept: float
    bits: tuple[int, bool]
    encoding: str


@dataclass(frozen=True, slots=True)
class Scanner:
    """What is kept of the machine, for strata: texts without control characters, field strength in tesla."""

    manufacturer: str
    model: str
    field_strength: float | None


@dataclass(frozen=True, slots=True)
class Instance:
    """One DICOM file of an image or a label object. It holds identifiers, and never leaves the memory.

    Attributes:
        path: the file.
        sop_class, uid, series, study, frame_of_reference: its UIDs; "" where the file does not say.
        patient: the Patient ID, "" where there is none.
        modality: CT, MR, PT, SEG, RTSTRUCT, ...
        texts: series description and protocol name.
        photometric: photometric interpretation, with the number of samples behind it if that is not 1.
        localizer, burned_in, looked_up: a scout, an image with text in its pixels, values that need a look-up table.
        announced: images that the acquisition has, where the header says.
        apart: values that tell slices at one position apart, in the order of `APART`.
        scanner: what is kept of the machine.
        planes: its slices.
        references: series UIDs that a label object is about.
        structures: what a label object calls its structures.
    """

    path: Path
    sop_class: str
    uid: str
    series: str
    study: str
    frame_of_reference: str
    patient: str
    modality: str
    texts: tuple[str, str]
    photometric: str
    localizer: bool
    burned_in: bool
    looked_up: bool
    announced: int | None
    apart: tuple[str, ...]
    scanner: Scanner
    planes: tuple[Plane, ...]
    references: tuple[str, ...]
    structures: tuple[str, ...]

    @property
    def is_label(self) -> bool:
        """Whether it is a segmentation or a structure set."""
        return self.sop_class in (*SEGMENTATION, *CONTOURS)

    @property
    def is_image(self) -> bool:
        """Whether it has pixels that are not those of a label."""
        return not self.is_label and (self.sop_class in VOLUMES or bool(self.photometric))
