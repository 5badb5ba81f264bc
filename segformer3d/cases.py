"""Which files make up a case: the Decathlon layout, or a plain folder of `images/` and `labels/`.

Only names are looked at here; a file that is missing or damaged is found when the case is read, and set aside there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer3d.errors import DataError
from segformer3d.tasks import read_description

_CHANNEL = re.compile(r"_\d{4}$")

# 1000 voxels a side: no scan comes near, but a header that gives a spacing in the wrong unit does.
MOST_VOXELS = 10**9


@dataclass(frozen=True)
class CaseFiles:
    """One case: its image files (one 3D file a contrast, or one 4D file) and its label file, if it has one.

    `patient` is whose it is, where the dataset says so.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str | None = None


def find_cases(folder: Path) -> tuple[CaseFiles, ...]:
    """The cases of a dataset folder, sorted by name.

    Understood are `dataset.json` with `training` entries (an entry's image is one file or a list of files, and it may
    name its "patient"), and `images/` with `labels/` beside it, where a case's files are `NAME.nii.gz` or
    `NAME_0000.nii.gz`, `NAME_0001...`.
    There, an image without a label and a label without an image are cases too: with a file missing.

    Raises:
        DataError: the folder is missing, of neither layout, or holds no case.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}; --data takes a folder with dataset.json, or with images/ and labels/"
        )
    if (folder / "dataset.json").is_file():
        cases = _decathlon(folder, read_description(folder / "dataset.json"))
    elif (folder / "images").is_dir():
        cases = _plain(folder)
    else:
        raise DataError(f"{folder} holds neither dataset.json nor images/ and labels/; it is not a dataset folder")
    if not cases:
        raise DataError(f"{folder} lists no case")
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise DataError(f"{folder} lists a case twice; every image name may stand there once")
    return tuple(sorted(cases, key=lambda case: case.name))


def find_images(path: Path) -> tuple[CaseFiles, ...]:
    """The unlabelled images at a path: one NIfTI file, a dataset folder, or a folder of NIfTI files.

    Raises:
        DataError: there is nothing to predict.
    """
    if path.is_file():
        return (CaseFiles(case_name(path), (path,), None),)
    if (path / "dataset.json").is_file() or (path / "images").is_dir():
        return find_cases(path)
    cases = tuple(CaseFiles(name, files, None) for name, files in _grouped(_nifti_files(path)).items())
    if not cases:
        raise DataError(f"there is no NIfTI image (.nii or .nii.gz) and no DICOM series at {path}")
    return cases


def case_name(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _decathlon(folder: Path, described: Mapping[str, Any]) -> list[CaseFiles]:
    entries = described.get("training")
    if not isinstance(entries, list):
        raise DataError(f"{folder / 'dataset.json'} has no list of 'training' cases")
    return [_entry(folder, number, entry) for number, entry in enumerate(entries)]


def _entry(folder: Path, number: int, entry: object) -> CaseFiles:
    named: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    image, label, patient = named.get("image"), named.get("label"), named.get("patient")
    images: list[Any] = image if isinstance(image, list) else [image]
    if not images or not all(isinstance(i, str) for i in images) or not isinstance(label, str):
        where = f"training entry {number} of {folder / 'dataset.json'}"
        raise DataError(f"{where} needs an 'image' and a 'label' file name")
    if patient is not None and not (isinstance(patient, str) and patient):
        raise DataError(f"'patient' of training entry {number} of {folder / 'dataset.json'} must be a text")
    # A label has the name of its case in every layout; image names carry channel numbers when there are several.
    name = case_name(Path(label)) if len(images) > 1 else case_name(Path(images[0]))
    return CaseFiles(name, tuple(folder / image for image in images), folder / label, patient)


def _plain(folder: Path) -> list[CaseFiles]:
    labels = {case_name(path): path for path in _nifti_files(folder / "labels")}
    images = _grouped(_nifti_files(folder / "images"), frozenset(labels))
    return [
        CaseFiles(
            name,
            images.get(name, (folder / "images" / f"{name}.nii.gz",)),
            labels.get(name, folder / "labels" / f"{name}.nii.gz"),
        )
        for name in images | labels
    ]


def _nifti_files(folder: Path) -> list[Path]:
    files = (path for path in folder.glob("*.nii*") if not path.name.startswith("."))
    return sorted(path for path in files if path.name.endswith((".nii", ".nii.gz")))


def _grouped(files: list[Path], whole: frozenset[str] = frozenset()) -> dict[str, tuple[Path, ...]]:
    """Files by case. A trailing _0001 is a channel number if there is a _0000 and no case has the full name."""
    names = {case_name(file) for file in files}
    cases: dict[str, tuple[Path, ...]] = {}
    for file in files:
        full = case_name(file)
        stem = _CHANNEL.sub("", full)
        name = stem if f"{stem}_0000" in names and full not in whole else full
        cases[name] = (*cases.get(name, ()), file)
    return cases
