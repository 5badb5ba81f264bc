"""Predictions for DICOM series: read into memory as they are, labels written as NIfTI or as DICOM segmentations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segformer3d.dicom.manifest import private_sources
from segformer3d.dicom.pixels import read_voxels
from segformer3d.dicom.pseudonyms import open_pseudonyms, remember
from segformer3d.dicom.segmentation_file import check_source, write_segmentation
from segformer3d.dicom.selection import Case, Refused, contrast_wishes, notes_of, select
from segformer3d.dicom.series import find_series
from segformer3d.errors import DataError
from segformer3d.prediction import Slabs, Way, write_label_map
from segformer3d.tasks import Task
from segformer3d.volumes import Volume, case_in_memory, to_source


@dataclass(frozen=True)
class Sources:
    """The cases to predict, the series that cannot be, and lines about those that can."""

    cases: tuple[Case, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]


def find_sources(path: Path, task: Task, contrasts: Sequence[str], out: Path) -> Sources:
    """The cases at a path: a DICOM file, a series' folder, or a folder of them. Names are made as for an import.

    Args:
        path: where to look.
        task: what will be predicted; series of other modalities are refused.
        contrasts: `NAME=PATTERN` for each contrast of the task.
        out: the folder of the predictions, whose private folder says what the names stand for.

    Raises:
        ConfigurationError: the contrasts are not those of the task.
        DataError: there is nothing to predict.
        StorageError: the folder cannot be written.
    """
    wishes = contrast_wishes(contrasts, task)
    found = find_series([path])
    pseudonyms = open_pseudonyms(out)
    remember(out, private_sources(found, pseudonyms))
    selected = select(found, pseudonyms, wishes, task)
    if not selected.cases:
        first = selected.refused[0] if selected.refused else None
        said = f"; {first.name}: {first.reason}" if first else ": there is no series of images that was asked for"
        raise DataError(f"no series can be predicted{said}")
    notes = tuple(f"{case.name}: note: {note}" for case in selected.cases for note in notes_of(case))
    return Sources(selected.cases, selected.refused, notes)


def read_volume(case: Case, task: Task) -> Volume:
    """A case's scans as they are, in memory: no file with the patient's image is written."""
    return case_in_memory([nib.Nifti1Image(read_voxels(scan), scan.grid.affine) for scan in case.scans], task)


def _read_for_segmentation(case: Case, task: Task) -> Volume:
    check_source(case.scans[0])
    return read_volume(case, task)


def _write_segmentation(path: Path, case: Case, slabs: Slabs, volume: Volume, task: Task) -> None:
    segments = np.concatenate([_segments(masks_SXYZ, task) for masks_SXYZ in slabs])
    write_segmentation(path, case.scans[0], to_source(segments, volume), task)


def _segments(masks_SXYZ: NDArray[np.bool_], task: Task) -> NDArray[np.uint8]:
    """Masks for regions that overlap (X, Y, Z, S); else numbers from 1 (X, Y, Z), which take the room of one mask."""
    if task.activation == "sigmoid":
        return np.moveaxis(masks_SXYZ, 0, -1).astype(np.uint8)
    numbers_XYZ = np.zeros(masks_SXYZ.shape[1:], np.uint8)
    for number, mask_XYZ in enumerate(masks_SXYZ, start=1):
        numbers_XYZ[mask_XYZ] = number
    return numbers_XYZ


WAYS: Mapping[str, Way[Case]] = {
    "nifti": Way(read_volume, write_label_map, ".nii.gz"),
    "dicom-seg": Way(_read_for_segmentation, _write_segmentation, ".dcm"),
}
