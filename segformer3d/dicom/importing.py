"""DICOM series to NIfTI files without identifiers: what `segfed data import` does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel as nib
from numpy.typing import NDArray

from segformer3d.dicom.geometry import Points
from segformer3d.dicom.labels import read_label
from segformer3d.dicom.manifest import Manifest, count, describe_case, describe_image, describe_label, private_sources
from segformer3d.dicom.pixels import read_voxels
from segformer3d.dicom.pseudonyms import Pseudonyms, open_pseudonyms, remember
from segformer3d.dicom.selection import Case, Refused, Selected, Wish, notes_of, select
from segformer3d.dicom.series import Found, find_series
from segformer3d.errors import CaseError, DataError
from segformer3d.files import write_atomic
from segformer3d.tasks import Task

_NO_PATIENT = (
    "it names no patient (Patient ID), so that nothing keeps the visits of a patient together; give it an id of "
    "your own at the source"
)
_SCANNER_SPACE = 1  # NIfTI's code for the coordinates of the scanner


@dataclass(frozen=True)
class Order:
    """What to import.

    Attributes:
        sources: folders or files.
        out: the dataset folder to write.
        task: which labels are read and which modality is expected; None takes any scan and no label.
        contrasts: which series of a study are the channels of a case; none makes every series a case.
        structures: what the task's structures are called in the labels; by default as in the task.
    """

    sources: tuple[Path, ...]
    out: Path
    task: Task | None = None
    contrasts: tuple[Wish, ...] = ()
    structures: tuple[Wish, ...] = ()


@dataclass(frozen=True)
class Imported:
    """What came of an import: what was found, the new cases as the manifest has them, and what was refused."""

    found: Found
    selected: Selected
    cases: tuple[Mapping[str, Any], ...]
    refused: tuple[Refused, ...]


def import_series(
    order: Order, on_file: Callable[[int], None], on_case: Callable[[Mapping[str, Any] | Refused], None]
) -> Imported:
    """Write a dataset folder: `images/`, `labels/`, `dataset.json`, `manifest.json`, and the private folder.

    Importing again, or more, into the same folder adds to it: the same patients and series get the same names. When
    it is stopped, the manifest lists what was finished.

    Args:
        order: what to import.
        on_file: told how many files were looked at.
        on_case: told each case's entry in the manifest, or what was refused and why.

    Raises:
        DataError: the sources hold no scan that can be used, or the folder holds something else.
        StorageError: the folder cannot be written.
    """
    manifest = Manifest(order.out, order.task, [wish.name for wish in order.contrasts])
    found = find_series(order.sources, on_file)
    pseudonyms = open_pseudonyms(order.out)
    remember(order.out, private_sources(found, pseudonyms))
    selected = select(found, pseudonyms, order.contrasts, order.task)
    done: list[Mapping[str, Any]] = []
    refused: list[Refused] = []
    try:
        for result in chain(selected.refused, (_import_or_refuse(case, order, pseudonyms) for case in selected.cases)):
            on_case(result)
            if isinstance(result, Refused):
                manifest.refuse(result)
                refused.append(result)
            else:
                manifest.add(result)
                done.append(result)
    finally:
        manifest.write(count(found, selected, len(done), len(refused)))
    if not done:
        raise DataError(_nothing(selected, refused))
    return Imported(found, selected, tuple(done), tuple(refused))


def _import_or_refuse(case: Case, order: Order, pseudonyms: Pseudonyms) -> Mapping[str, Any] | Refused:
    if case.patient is None:
        return Refused(case.name, _NO_PATIENT)
    try:
        return _import(case, order, pseudonyms)
    except CaseError as error:
        return Refused(case.name, str(error))


def _import(case: Case, order: Order, pseudonyms: Pseudonyms) -> Mapping[str, Any]:
    """Everything is read before anything is written: a case is refused as a whole."""
    label = read_label(case, order.task, order.structures) if order.task else None
    volumes = [read_voxels(scan) for scan in case.scans]
    images = []
    for number, (scan, voxels_IJK) in enumerate(zip(case.scans, volumes, strict=True)):
        file = f"images/{case.name}_{number:04d}.nii.gz" if len(case.scans) > 1 else f"images/{case.name}.nii.gz"
        write_nifti(order.out / file, voxels_IJK, scan.grid.affine)
        images.append(describe_image(scan, file, voxels_IJK, pseudonyms))
    file = f"labels/{case.name}.nii.gz"
    if label is None:
        (order.out / file).unlink(missing_ok=True)  # of an earlier import
        return describe_case(case, images, None, notes_of(case))
    write_nifti(order.out / file, label.values, case.scans[0].grid.affine)
    described = describe_label(label, file, pseudonyms)
    return describe_case(case, images, described, [*notes_of(case), *label.notes])


def write_nifti(path: Path, voxels_IJK: NDArray[Any], affine: Points) -> None:
    """A NIfTI file that says nothing but its geometry.

    Raises:
        StorageError: it cannot be written.
    """
    image = nib.Nifti1Image(voxels_IJK, affine, dtype=voxels_IJK.dtype)
    image.set_sform(affine, _SCANNER_SPACE)
    image.set_qform(affine, _SCANNER_SPACE)
    image.header.set_xyzt_units("mm")
    write_atomic(path, lambda temporary: nib.save(image, temporary))


def _nothing(selected: Selected, refused: Sequence[Refused]) -> str:
    if refused:
        first = refused[0]
        return f"nothing could be imported; {len(refused)} were refused, the first ({first.name}): {first.reason}"
    if selected.not_asked:
        return (
            f"none of {selected.not_asked} series fits a pattern of --contrast; private/series.json in the output "
            "folder lists how they are described"
        )
    return "nothing could be imported: there is no series of images"
