"""The cases of a dataset folder, whatever its layout: each is tried, and the first that fits is taken.

Only names are looked at here; a file that is missing or damaged is found when the case is read, and set aside there.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from segformer3d.errors import DataError
from segformer3d.lacks import read_lacks
from segformer3d.layouts import acdc, bids, brats, btcv, decathlon, nnunet, plain
from segformer3d.layouts.files import CaseFiles, Layout, case_name, folders_in, grouped_channels, nifti_files
from segformer3d.quarantine import QUARANTINE_FILE, with_quarantine

__all__ = ["LAYOUTS", "CaseFiles", "case_name", "find_cases", "find_images"]

# A description in the folder goes first, then names that say much before names that say little.
LAYOUTS: tuple[Layout, ...] = (
    decathlon.LAYOUT,
    nnunet.LAYOUT,
    acdc.LAYOUT,
    brats.LAYOUT,
    btcv.LAYOUT,
    bids.LAYOUT,
    plain.LAYOUT,
)
_MOST_FOLDERS = 20  # that are looked into for a hint

Cases = tuple[CaseFiles, ...]


def find_cases(folder: Path) -> Cases:
    """The cases of a dataset folder in any of `LAYOUTS`, sorted by name; those on its quarantine list are marked.

    Raises:
        DataError: the folder is missing, broken or of no layout; the text says what was looked for and what is missing.
            Or its quarantine list cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; --data takes a folder of labelled cases")
    cases, missing = _try_layouts(folder)
    if not cases:
        raise DataError(_no_layout(folder, missing))
    return cases


def find_images(path: Path) -> Cases:
    """The images at a path, labelled or not: one NIfTI file, a dataset folder, or a folder of NIfTI files.

    Raises:
        DataError: there is nothing to predict, or a dataset folder is broken.
    """
    if path.is_file():
        return (CaseFiles(case_name(path), (path,), None),)
    cases, missing = _try_layouts(path) if path.is_dir() else ((), {})
    cases = cases or tuple(CaseFiles(name, files, None) for name, files in grouped_channels(nifti_files(path)).items())
    if not cases:
        near = "".join(f" ({name}: {lacks})" for name, lacks in missing.items() if lacks)
        raise DataError(
            f"at {path} there is no NIfTI image (.nii or .nii.gz), no DICOM series, no dataset of a known layout{near}"
        )
    return cases


def _try_layouts(folder: Path) -> tuple[Cases, Mapping[str, str]]:
    """The cases of the first layout that fits; else none, and what each layout misses."""
    missing: dict[str, str] = {}
    for layout in LAYOUTS:
        try:
            found = layout.find(folder)
        except OSError as error:
            raise DataError(f"{folder} cannot be looked into ({error.strerror}); change its permissions") from error
        if found.cases:
            return _in_order(folder, found.cases), {}
        missing[layout.name] = found.missing
    return (), missing


def _in_order(folder: Path, cases: Cases) -> Cases:
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise DataError(f"{folder} lists a case twice; every image name may stand there once")
    listed, lacks = folder / QUARANTINE_FILE, read_lacks(folder)
    told = (replace(_with_patient(case), lacks=lacks) for case in cases)
    known = tuple(sorted(told, key=lambda case: case.name))
    if not listed.exists():
        return known
    marked = with_quarantine(known, listed)
    return tuple(replace(case, sidecars=(*case.sidecars, listed)) if case.quarantined else case for case in marked)


def _with_patient(case: CaseFiles) -> CaseFiles:
    """Some datasets' case names tell the patient in any layout that they are copied to."""
    told = (benchmark.patient_of_name(case.name) for benchmark in (acdc, brats, decathlon))
    return replace(case, patient=case.patient or next(filter(None, told), None))


def _no_layout(folder: Path, missing: Mapping[str, str]) -> str:
    if not any(folder.iterdir()):
        return f"{folder} is empty; --data takes a folder of labelled cases"
    takes = "; ".join(f"{layout.name} ({layout.takes})" for layout in LAYOUTS)
    near = "; ".join(f"{name}: {lacks}" for name, lacks in missing.items() if lacks)
    told = _hint(folder) or (f"It comes near {near}. " if near else "")
    return f"{folder} is of no known layout. {told}Known are {takes}"


def _hint(folder: Path) -> str:
    """Datasets that lie one level deeper: people name the folder that they unpacked."""
    places = [place.name for place in folders_in(folder)[:_MOST_FOLDERS] if _try_layouts(place)[0]]
    return f"Its folder {' or '.join(places)} is; name that one. " if places else ""
