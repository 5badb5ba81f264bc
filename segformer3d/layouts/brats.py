"""The layout of the BraTS challenges: a folder for each case, and a file for each contrast in it.

Until 2021 files end in `_flair`, `_t1`, `_t1ce`, `_t2` and `_seg` (labels 0, 1, 2, 4), from 2023 on in `-t2f`, `-t1n`,
`-t1c`, `-t2w` and `-seg` (labels 0 to 3), each after the folder's name. A name such as `BraTS-GLI-00000-000` is a
patient and, last, a point in time. Baid et al., "The RSNA-ASNR-MICCAI BraTS 2021 Benchmark", 2021.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segformer3d.errors import DataError
from segformer3d.layouts.files import ENDINGS, CaseFiles, Found, Layout, case_name, existing, folders_in, nifti_files

_VISIT = re.compile(r"(?P<patient>BraTS-[A-Z]+-\d+)-(?P<timepoint>\d+)")


@dataclass(frozen=True)
class _Naming:
    """How one generation of the challenge names files: the contrasts in the order of the task, and the label."""

    task: str
    contrasts: tuple[str, ...]
    sign: str

    def path(self, folder: Path, what: str) -> Path | None:
        stem = f"{folder.absolute().name}{self.sign}{what}"  # "." has no name
        return next(iter(existing(*(folder / f"{stem}{ending}" for ending in ENDINGS))), None)


_NAMINGS = (
    _Naming("brats2021", ("flair", "t1", "t1ce", "t2"), "_"),
    _Naming("brats2023", ("t2f", "t1n", "t1c", "t2w"), "-"),
)


def find(folder: Path) -> Found:
    """The cases in the folder, or the folder itself where it is a case.

    Raises:
        DataError: both namings occur, whose labels mean different things.
    """
    places = folders_in(folder)
    found = {naming.task: _cases(naming, [folder, *places]) for naming in _NAMINGS}
    present = [cases for cases in found.values() if cases]
    if len(present) > 1:
        told = " and ".join(f"{_spoken(naming)} ({len(found[naming.task])} cases)" for naming in _NAMINGS)
        raise DataError(f"{folder} mixes files named {told}, whose labels differ; keep them in folders of their own")
    return Found(present[0]) if present else Found(missing=_missing(folder, places))


def _cases(naming: _Naming, places: Sequence[Path]) -> tuple[CaseFiles, ...]:
    cases = (_case(naming, place) for place in places)
    return tuple(case for case in cases if case is not None)


def _case(naming: _Naming, folder: Path) -> CaseFiles | None:
    """The contrasts that are there; one that is not is named when the case is read."""
    paths = {contrast: naming.path(folder, contrast) for contrast in naming.contrasts}
    images = {contrast: path for contrast, path in paths.items() if path is not None}
    if not images:
        return None
    name, label = folder.absolute().name, naming.path(folder, "seg")
    contrasts = tuple(images)
    return CaseFiles(
        name, tuple(images.values()), label, patient_of_name(name), contrasts, _facts(name), benchmark=naming.task
    )


def patient_of_name(name: str) -> str | None:
    """The patient in a name of BraTS 2023 and later."""
    match = _VISIT.fullmatch(name)
    return match["patient"] if match else None


def _facts(name: str) -> tuple[tuple[str, str], ...]:
    match = _VISIT.fullmatch(name)
    return (("timepoint", match["timepoint"]),) if match else ()


def _spoken(naming: _Naming) -> str:
    return f"{naming.sign}{naming.contrasts[0]}, {naming.sign}{naming.contrasts[1]}"


def _missing(folder: Path, places: Sequence[Path]) -> str:
    """What a folder with some such names lacks."""
    suffixes = tuple(f"{naming.sign}{contrast}" for naming in _NAMINGS for contrast in naming.contrasts)
    for place in (folder, *places[:10]):
        if any(case_name(path).endswith(suffixes) for path in nifti_files(place)):
            return "files are named by contrast, but do not lie in a folder for each case that has the case's name"
    return ""


LAYOUT = Layout("BraTS", "a folder a case, CASE/CASE_flair.nii.gz or CASE/CASE-t2f.nii.gz", find)
