"""Predicted structures as a DICOM segmentation (SEG) of the series that they were found in; highdicom writes it.

It goes back to the archive, so that it carries what the series carries of patient and study.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.dicom.checks import Scan
from segformer3d.dicom.codes import codes_of
from segformer3d.dicom.library import quietly, read_header
from segformer3d.errors import CaseError
from segformer3d.tasks import Task

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

SERIES_NUMBER = 9000
_LONGEST_LABEL = 64
# Elements that a series must have, empty if need be (type 2), that many lack, and that highdicom copies.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "SliceThickness",
)


def write_segmentation(path: Path, scan: Scan, segments: NDArray[np.uint8], task: Task) -> None:
    """One binary segment a structure, in the task's order and under its name.

    Frames have the positions of the series' own slices, and refer to them. Slices without a voxel are left out.

    Args:
        path: the file.
        scan: the series.
        segments: (columns, rows, slices) numbers of structures, from 1; or (columns, rows, slices, structures) masks
            of structures that overlap.
        task: names the structures.
    """
    from highdicom import UID, PixelMeasuresSequence, PlaneOrientationSequence
    from highdicom.seg import Segmentation

    release, first = version("segfed"), scan.planes[0]
    distance = scan.grid.spacing[2]
    with quietly():
        segmentation = Segmentation(
            source_images=_sources(scan),
            pixel_array=_frames(scan, segments),
            segmentation_type="BINARY",
            segment_descriptions=_describe(task, release),
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="segfed",
            manufacturer_model_name="SegFormer3D",
            software_versions=release,
            device_serial_number="0",
            content_label="SEGFED",
            content_description="found by a model, not reviewed",
            pixel_measures=PixelMeasuresSequence(first.spacing, distance, distance),
            plane_orientation=PlaneOrientationSequence("PATIENT", first.orientation),
            series_description=f"segfed {task.name}"[:_LONGEST_LABEL],
        )
        segmentation.save_as(path)


def check_source(scan: Scan) -> None:
    """See that a segmentation can refer to the scan.

    Raises:
        CaseError: it names no frame of reference, or its frames are spread over several files.
    """
    if not scan.first.frame_of_reference:
        raise CaseError("its files name no frame of reference, which a DICOM segmentation needs; use --format nifti")
    if len(scan.series.instances) > 1 and scan.planes[0].frame is not None:
        raise CaseError(
            "its slices are in several multi-frame files, which a DICOM segmentation cannot refer to; "
            "use --format nifti"
        )


def _sources(scan: Scan) -> "list[Dataset]":
    """The headers of the files in the order of `_frames`: one a slice, or the one that holds all."""
    headers = [read_header(path) for path in dict.fromkeys(plane.path for plane in scan.planes)]
    for keyword in _MAY_BE_EMPTY:
        if keyword not in headers[0]:
            setattr(headers[0], keyword, None)
    return headers


def _frames(scan: Scan, segments: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(slices, rows, columns, ...), slices in the order in which the file or files of the series hold them."""
    ordered_KJI = segments.swapaxes(0, 2)
    frames_KJI = np.empty_like(ordered_KJI)
    for number, plane in enumerate(scan.planes):
        frames_KJI[number if plane.frame is None else plane.frame] = ordered_KJI[number]
    return frames_KJI


def _describe(task: Task, release: str) -> "Sequence[SegmentDescription]":
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence("SegFormer3D", codes.DCM.ArtificialIntelligence, release, "segfed")
    described: list[Any] = []
    for number, structure in enumerate(task.structures, start=1):
        category, kind = codes_of(structure.name)
        label = structure.name[:_LONGEST_LABEL]
        described.append(SegmentDescription(number, label, category, kind, "AUTOMATIC", algorithm))
    return described
