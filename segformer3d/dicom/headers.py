"""Headers of DICOM files to instances: of each file its series, and of each slice where it lies."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segformer3d.dicom.instances import APART, Instance, Numbers, Plane, Scanner
from segformer3d.dicom.library import read_to_pixels, refusing
from segformer3d.errors import CaseError

if TYPE_CHECKING:
    from pydicom import Dataset

_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality")
_CHOICE = ("SeriesDescription", "ProtocolName", "ImageType", "BurnedInAnnotation", "ImagesInAcquisition")
_SCANNER = ("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength")
_PIXELS = ("SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "PixelRepresentation", "NumberOfFrames")
_PLACE = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID")
_VALUES = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_LABELS = ("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence", "SegmentSequence")
_ROIS = ("StructureSetROISequence",)
_KEYWORDS = (*_IDENTITY, *_CHOICE, *_SCANNER, *_PIXELS, *_PLACE, *_VALUES, *_GROUPS, *_LABELS, *_ROIS, *APART)

DIRECTORY = "1.2.840.10008.1.3.10"  # DICOMDIR, the list of contents of a disc
LONGEST_FACT = 64
# What a file without file meta information is written in, by (implicit VR, little endian).
_ENCODINGS: Mapping[object, str] = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}


def read_instance(path: Path) -> Instance:
    """A file's header.

    Raises:
        CaseError: the file is damaged, holds an image without pixels, or does not say which series it is part of.
    """
    header, has_more = read_to_pixels(path, _KEYWORDS)
    with refusing("the header of a DICOM file is damaged; export its series again"):
        instance = _instance(path, header)
    if instance.sop_class != DIRECTORY and not (instance.uid and instance.series):
        raise CaseError("a DICOM file does not say which series it is part of; export its series again")
    if instance.is_image and not has_more:
        raise CaseError("a DICOM file ends before its pixels; export its series again")
    return instance


def frame_groups(header: "Dataset") -> "list[tuple[Dataset, Dataset]]":
    """Of each frame of a multi-frame file the functional groups of its own, and those that all frames share."""
    from pydicom import Dataset

    shared = (list(header.get("SharedFunctionalGroupsSequence") or []) or [Dataset()])[0]
    return [(own, shared) for own in header.get("PerFrameFunctionalGroupsSequence") or []]


def _instance(path: Path, header: "Dataset") -> Instance:
    image_type = [str(part).upper() for part in _several(header.get("ImageType"))]
    samples = int(header.get("SamplesPerPixel") or 1)
    photometric = str(header.get("PhotometricInterpretation") or "")
    return Instance(
        path=path,
        sop_class=_text(header, "SOPClassUID") or _text(header.file_meta, "MediaStorageSOPClassUID"),
        uid=_text(header, "SOPInstanceUID"),
        series=_text(header, "SeriesInstanceUID"),
        study=_text(header, "StudyInstanceUID"),
        frame_of_reference=_text(header, "FrameOfReferenceUID"),
        patient=_text(header, "PatientID"),
        modality=_text(header, "Modality"),
        texts=(_text(header, "SeriesDescription"), _text(header, "ProtocolName")),
        photometric=photometric if samples == 1 else f"{photometric} with {samples} samples",
        localizer="LOCALIZER" in image_type,
        burned_in=_text(header, "BurnedInAnnotation").upper() == "YES",
        looked_up=bool(header.get("ModalityLUTSequence")),
        announced=int(header.get("ImagesInAcquisition") or 0) or None,
        apart=tuple(str(header.get(keyword, "")) for keyword in APART),
        scanner=_scanner(header),
        planes=_planes(path, header),
        references=_references(header),
        structures=_structures(header),
    )


def _planes(path: Path, header: "Dataset") -> tuple[Plane, ...]:
    frames = frame_groups(header)
    if not frames:
        return (_plane(path, None, header, header, header, header, header),)
    return tuple(
        _plane(
            path,
            number,
            header,
            _group("PlanePositionSequence", *groups),
            _group("PlaneOrientationSequence", *groups),
            _group("PixelMeasuresSequence", *groups),
            _group("PixelValueTransformationSequence", *groups),
        )
        for number, groups in enumerate(frames)
    )


def _plane(
    path: Path,
    frame: int | None,
    header: "Dataset",
    position: "Dataset",
    orientation: "Dataset",
    measures: "Dataset",
    values: "Dataset",
) -> Plane:
    return Plane(
        path=path,
        frame=frame,
        position=_numbers(position.get("ImagePositionPatient"), 3),
        orientation=_numbers(orientation.get("ImageOrientationPatient"), 6),
        spacing=_numbers(measures.get("PixelSpacing"), 2),
        size=(int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
        slope=_number(values.get("RescaleSlope"), 1.0),
        intercept=_number(values.get("RescaleIntercept"), 0.0),
        bits=(int(header.get("BitsStored") or 0), header.get("PixelRepresentation") == 1),
        encoding=_text(header.file_meta, "TransferSyntaxUID") or _ENCODINGS.get(header.original_encoding, ""),
    )


def _group(keyword: str, own: "Dataset", shared: "Dataset") -> "Dataset":
    from pydicom import Dataset

    for groups in (own, shared):
        if groups.get(keyword):
            return groups[keyword].value[0]  # type: ignore[no-any-return]
    return Dataset()


def _references(header: "Dataset") -> tuple[str, ...]:
    """The series that a label object is about: SEG names them on top, RTSTRUCT below frame of reference and study."""
    named = list(header.get("ReferencedSeriesSequence") or [])
    for frame in header.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            named += study.get("RTReferencedSeriesSequence") or []
    return tuple(dict.fromkeys(_text(item, "SeriesInstanceUID") for item in named))


def segments_of(header: "Dataset") -> "list[Dataset]":
    """The descriptions of a segmentation's segments, without the background that label maps describe as number 0."""
    return [item for item in header.get("SegmentSequence") or [] if int(item.SegmentNumber) > 0]


def _structures(header: "Dataset") -> tuple[str, ...]:
    segments = [_text(item, "SegmentLabel") for item in segments_of(header)]
    return (*segments, *(_text(item, "ROIName") for item in header.get("StructureSetROISequence") or []))


def _scanner(header: "Dataset") -> Scanner:
    tesla = header.get("MagneticFieldStrength")
    strength = _number(tesla, 0.0)
    # Some scanners give gauss, which are 10,000 to the tesla.
    strength = strength / 10_000 if strength > 100 else strength
    return Scanner(
        _fact(header, "Manufacturer"), _fact(header, "ManufacturerModelName"), round(strength, 2) if strength else None
    )


def _fact(header: "Dataset", keyword: str) -> str:
    return "".join(character for character in _text(header, keyword) if character.isprintable())[:LONGEST_FACT]


def _text(header: "Dataset", keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()


def _number(value: Any, default: float) -> float:
    return default if value in (None, "") else float(value)


def _numbers(value: Any, count: int) -> Numbers:
    numbers = tuple(float(number) for number in _several(value))
    return numbers if len(numbers) == count else (math.nan,) * count


def _several(value: Any) -> Iterable[Any]:
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, str | float | int) else value
