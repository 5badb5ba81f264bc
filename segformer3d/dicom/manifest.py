"""What an import says about itself: `dataset.json` and `scanners.csv` for segfed, `manifest.json` for people.

None of the three holds a name, an id, a date, a UID or a free text of the source but the scanner's maker
and model. Series and patients stand there by their pseudonyms.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.dicom.checks import Scan
from segformer3d.dicom.instances import VOLUMES, Instance
from segformer3d.dicom.labels import CaseLabel
from segformer3d.dicom.pseudonyms import PRIVATE, Pseudonyms
from segformer3d.dicom.selection import Case, Refused, Selected
from segformer3d.dicom.series import Found
from segformer3d.errors import DataError
from segformer3d.files import write_csv, write_json
from segformer3d.layouts.description import read_description
from segformer3d.tasks import Task

FILE = "manifest.json"
# What is kept of an image's scanner, and stands in `scanners.csv` for each case: `segfed evaluate --strata` reads it.
SCANNER_FACTS = ("modality", "manufacturer", "model", "field_strength_tesla")


def describe_case(
    case: Case, images: Sequence[Mapping[str, Any]], label: Mapping[str, Any] | None, notes: Sequence[str]
) -> dict[str, Any]:
    """A case's entry in the manifest."""
    described = {"case": case.name, "patient": case.patient, "images": list(images), "label": label}
    return {**described, "notes": list(notes)}


def describe_image(scan: Scan, file: str, voxels: NDArray[Any], pseudonyms: Pseudonyms) -> dict[str, Any]:
    """What is kept of a series: where it is now, its geometry, its scanner, and a digest of its voxels."""
    scanner = scan.first.scanner
    return {
        "file": file,
        "series": pseudonyms.series(scan.series.uid),
        "modality": VOLUMES[scan.first.sop_class],
        "manufacturer": scanner.manufacturer,
        "model": scanner.model,
        "field_strength_tesla": scanner.field_strength,
        "shape": list(scan.grid.shape),
        "spacing_mm": [round(mm, 6) for mm in scan.grid.spacing],
        "affine_ras": [[round(float(value), 6) for value in row] for row in scan.grid.affine],
        "dtype": voxels.dtype.name,
        "files": len(scan.series.instances),
        "voxels_sha256": digest_of(voxels),
    }


def describe_label(label: CaseLabel, file: str, pseudonyms: Pseudonyms) -> dict[str, Any]:
    """What is kept of a label object."""
    values, counts = np.unique(label.values, return_counts=True)
    return {
        "file": file,
        "series": pseudonyms.series(label.source.series),
        "kind": label.source.modality if label.source.modality in ("SEG", "RTSTRUCT") else "",
        "voxels": {str(value): int(count) for value, count in zip(values, counts, strict=True)},
        "voxels_sha256": digest_of(label.values),
    }


def digest_of(voxels: NDArray[Any]) -> str:
    """SHA-256 of the voxels as the file holds them: columns fastest, little endian."""
    digest = hashlib.sha256()
    for number in range(voxels.shape[-1]):
        digest.update(voxels[..., number].T.astype(voxels.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def private_sources(found: Found, pseudonyms: Pseudonyms) -> dict[str, dict[str, Any]]:
    """For the private folder: where each series lies and what it is called there."""
    groups = [*(series.instances for series in found.series), *((label,) for label in found.labels)]
    return {pseudonyms.series(instances[0].series): _private(instances) for instances in groups}


def _private(instances: Sequence[Instance]) -> dict[str, Any]:
    first = instances[0]
    folders = sorted({str(instance.path.parent.absolute()) for instance in instances})
    texts = {"description": first.texts[0], "protocol": first.texts[1]}
    return {"folders": folders, "files": len(instances), **texts, "structures": list(first.structures)}


def count(found: Found, selected: Selected, imported: int, refused: int) -> dict[str, Any]:
    """What there was, in numbers."""
    return {
        "files": found.files,
        "not_dicom": found.not_dicom,
        "damaged": found.damaged,
        "copies": found.copies,
        "other_objects": dict(found.others),
        "series": len(found.series),
        "series_not_asked_for": selected.not_asked,
        "label_objects": len(found.labels),
        "stray_label_objects": selected.stray_labels,
        "cases_imported": imported,
        "refused": refused,
    }


class Manifest:
    """The manifest of an output folder. What earlier imports wrote stays, except what is imported again."""

    def __init__(self, out: Path, task: Task | None, contrasts: Sequence[str]) -> None:
        """Raises DataError where the folder holds something else, or cases of another task or other contrasts."""
        self.out, self.task, self.contrasts = out, task, list(contrasts)
        before = _read(out, {"task": task.name if task else None, "contrasts": self.contrasts})
        self.cases = {case["case"]: case for case in before.get("cases", [])}
        self.refused = {item["name"]: item for item in before.get("refused", [])}

    def add(self, entry: Mapping[str, Any]) -> None:
        """A case that was written."""
        self.cases[entry["case"]] = dict(entry)
        for name in (entry["case"], *(image["series"] for image in entry["images"])):
            self.refused.pop(name, None)

    def refuse(self, refused: Refused) -> None:
        """A series or a case that is not used."""
        self.refused[refused.name] = {"name": refused.name, "reason": refused.reason}

    def write(self, counts: Mapping[str, Any]) -> None:
        """The open files.

        Raises:
            StorageError: one cannot be written.
        """
        cases = [self.cases[name] for name in sorted(self.cases)]
        write_json(
            self.out / FILE,
            {
                "made_by": f"segfed data import {version('segfed')}",
                "task": self.task.name if self.task else None,
                "contrasts": self.contrasts,
                "last_import": counts,
                "cases": cases,
                "refused": [self.refused[name] for name in sorted(self.refused)],
            },
        )
        write_json(self.out / "dataset.json", _dataset(cases, self.task, self.contrasts))
        write_csv(self.out / "scanners.csv", ("case", *SCANNER_FACTS), map(_scanner_facts, cases))


def _read(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    if not (out / FILE).is_file():
        there = {path.name for path in out.iterdir()} if out.is_dir() else set()
        if there - {PRIVATE, "images", "labels"} or (there and PRIVATE not in there):
            raise DataError(f"{out} holds something else; choose a new folder, or one that segfed imported into")
        return {}
    before = read_description(out / FILE)
    for name, value in settings.items():
        if before.get("cases") and before.get(name) != value:
            raise DataError(
                f"{out} was imported with {name} {json.dumps(before.get(name))}, now {json.dumps(value)} is asked for; "
                "choose a new folder"
            )
    return before


def _dataset(cases: Sequence[Mapping[str, Any]], task: Task | None, contrasts: Sequence[str]) -> dict[str, Any]:
    """Decathlon's `dataset.json`: labelled cases to train on, the others to predict ("test")."""
    training = [_entry(case) for case in cases if case["label"]]
    test = [_entry(case) for case in cases if not case["label"]]
    modalities = task.modalities if task else contrasts or [_modality(cases)]
    return {
        "name": task.name if task else "imported",
        "description": "imported from DICOM by segfed; identifiers are left out",
        "modality": {str(number): name for number, name in enumerate(modalities)},
        "labels": _labels(task) if task else {"0": "background"},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }


def _entry(case: Mapping[str, Any]) -> dict[str, Any]:
    files = [image["file"] for image in case["images"]]
    entry = {"image": files if len(files) > 1 else files[0], "patient": case["patient"]}
    return {**entry, "label": case["label"]["file"]} if case["label"] else entry


def _modality(cases: Sequence[Mapping[str, Any]]) -> str:
    """What all images were taken with, as datasets say it; a mixture is unknown."""
    taken = {image["modality"] for case in cases for image in case["images"]}
    return {"CT": "CT", "MR": "MRI", "PT": "PET"}[taken.pop()] if len(taken) == 1 else "unknown"


def _scanner_facts(case: Mapping[str, Any]) -> list[object]:
    """A row: contrasts of one study come from one scanner, so that the first speaks for all."""
    first = case["images"][0]
    return [case["case"], *("" if first[fact] is None else first[fact] for fact in SCANNER_FACTS)]


def _labels(task: Task) -> dict[str, str]:
    """A name for each label value: the smallest structure that holds it."""
    names = {"0": "background"}
    for value in task.label_values[1:]:
        holding = [structure for structure in task.structures if value in structure.labels]
        names[str(value)] = min(holding, key=lambda structure: len(structure.labels)).name if holding else "other"
    return names
