"""The layout of the Medical Segmentation Decathlon: `dataset.json` with `training` entries.

An entry's `image` is one file or a list of files, its `label` one file; it may name its `patient`. Task04 Hippocampus
has two crops of each patient, left and right, numbered one after the other: 394 of 195 people. The files do not say
so, but the mean intensities of 2k-1 and 2k differ by 3 % (median of 52 pairs), those of 2k and 2k+1 by 32 %, in units
that span four orders of magnitude, and the number type of the first always agrees.
Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 2022.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segformer3d.errors import DataError
from segformer3d.layouts.description import DESCRIPTION, known_channels, read_description
from segformer3d.layouts.files import CaseFiles, Found, Layout, case_name

_SIDE = re.compile(r"hippocampus_(?P<number>\d{3})")


def find(folder: Path) -> Found:
    """The cases that `dataset.json` lists, whether their files are there or not."""
    if not (folder / DESCRIPTION).is_file():
        return Found()
    described = read_description(folder / DESCRIPTION)
    entries = described.get("training")
    if not isinstance(entries, list):
        return Found(missing=f"{DESCRIPTION} has no list of 'training' cases")
    cases = tuple(_entry(folder, number, entry, described) for number, entry in enumerate(entries))
    if not cases:
        return Found(missing=f"{DESCRIPTION} lists no case")
    return Found() if _has_channel_files(cases[0]) else Found(cases)


def _entry(folder: Path, number: int, entry: object, described: Mapping[str, Any]) -> CaseFiles:
    named: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    image, label, patient = named.get("image"), named.get("label"), named.get("patient")
    images: list[Any] = image if isinstance(image, list) else [image]
    if not images or not all(isinstance(i, str) for i in images) or not isinstance(label, str):
        where = f"training entry {number} of {folder / DESCRIPTION}"
        raise DataError(f"{where} needs an 'image' and a 'label' file name")
    if patient is not None and not (isinstance(patient, str) and patient):
        raise DataError(f"'patient' of training entry {number} of {folder / DESCRIPTION} must be a text")
    # A label has the name of its case in every layout; image names carry channel numbers when there are several.
    name, first = case_name(Path(label)), case_name(Path(images[0]))
    name = name if len(images) > 1 or first == f"{name}_0000" else first
    contrasts = known_channels(described, len(images))
    return CaseFiles(name, tuple(folder / image for image in images), folder / label, patient, contrasts)


def patient_of_name(name: str) -> str | None:
    """The patient whose left or right side a case of Task04 is: 001 and 002 are one, 003 and 004 the next."""
    match = _SIDE.fullmatch(name)
    return f"hippocampus-patient-{(int(match['number']) + 1) // 2:03d}" if match else None


def _has_channel_files(case: CaseFiles) -> bool:
    """Whether the files are named as nnU-Net's first version did: listed as NAME, stored as NAME_0000."""
    first = case.images[0]
    return not first.exists() and first.with_name(f"{case_name(first)}_0000.nii.gz").is_file()


LAYOUT = Layout("Decathlon", "dataset.json with 'training' entries", find)
