"""What a layout finds: the files of each case, and what their names and the files beside them tell.

Only names are looked at; a file that is missing or damaged is found when the case is read, and set aside there.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from segformer3d.lacks import NOTHING, Lacks

ENDINGS = (".nii.gz", ".nii")
_CHANNEL = re.compile(r"_\d{4}$")


@dataclass(frozen=True)
class CaseFiles:
    """One case: its image files (one 3D file a contrast, or one 4D file) and its label file, if it has one.

    Attributes:
        name: the case's, once in a dataset.
        images: its image files.
        label: its label file.
        patient: whose it is, where the dataset says so.
        contrasts: what each image file shows ("flair", "T1w"), where names or the dataset say so; else empty.
        facts: what else is known, as (what, value): ("group", "DCM"), ("frame", "ED"), ("site", "2").
        sidecars: files of the dataset that tell `facts` and belong beside the case wherever it goes.
        benchmark: the built-in task whose files are named like this; what label values mean follows from it.
        quarantined: why it may not be used, where a list says so; see `segformer3d.quarantine`.
        lacks: contrasts and structures that its dataset says it lacks.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str | None = None
    contrasts: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    sidecars: tuple[Path, ...] = ()
    benchmark: str | None = None
    quarantined: str | None = None
    lacks: Lacks = NOTHING

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files, the label last."""
        return self.images if self.label is None else (*self.images, self.label)


@dataclass(frozen=True)
class Found:
    """What a layout finds in a folder.

    Attributes:
        cases: of a folder that fits.
        missing: of a folder that does not, but comes near: what it lacks.
    """

    cases: tuple[CaseFiles, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Layout:
    """A layout: what people call it, what it takes, and how cases are found in it.

    `find` raises DataError for a folder that is of this layout and broken.
    """

    name: str
    takes: str
    find: Callable[[Path], Found]


def case_name(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def nifti_files(folder: Path) -> list[Path]:
    """The NIfTI files in a folder, sorted; hidden ones (macOS leaves `._` files) are none."""
    files = (path for path in folder.glob("*.nii*") if not path.name.startswith("."))
    return sorted(path for path in files if path.name.endswith(ENDINGS))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def existing(*paths: Path) -> tuple[Path, ...]:
    """Those of the files that are there."""
    return tuple(path for path in paths if path.is_file())


def grouped_channels(files: Iterable[Path], whole: frozenset[str] = frozenset()) -> dict[str, tuple[Path, ...]]:
    """Files by case. A trailing _0001 is a channel number if there is a _0000 and no case has the full name."""
    files = list(files)
    names = {case_name(file) for file in files}
    cases: dict[str, tuple[Path, ...]] = {}
    for file in files:
        full = case_name(file)
        stem = _CHANNEL.sub("", full)
        name = stem if f"{stem}_0000" in names and full not in whole else full
        cases[name] = (*cases.get(name, ()), file)
    return cases
