"""BIDS: images in `sub-X/[ses-Y/]anat/`, label maps in `derivatives/*/sub-X/...` (`_dseg`, or `_mask`).

A session is a case, a subject a patient. `participants.tsv` may say from which site or scanner a subject is.
Gorgolewski et al., "The brain imaging data structure", Scientific Data 2016; BIDS specification 1.10, derivatives.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segformer3d.errors import DataError
from segformer3d.layouts.files import CaseFiles, Found, Layout, case_name, existing, folders_in, nifti_files

LABELS = ("dseg", "mask")  # the first kind that there is goes first
_NO_IMAGE = (*LABELS, "probseg", "defacemask")
_PARTICIPANTS = "participants.tsv"
_FACTS = ("site", "scanner")

Session = tuple[str, str | None]


@dataclass(frozen=True)
class _Name:
    """A file's name: entities such as sub-01 and ses-2, and a suffix such as T1w."""

    entities: Mapping[str, str]
    suffix: str

    @property
    def session(self) -> Session:
        return self.entities.get("sub", ""), self.entities.get("ses")

    @property
    def contrast(self) -> str:
        """T1w after contrast agent is what the other layouts call t1ce."""
        return "T1ce" if self.suffix == "T1w" and "ce" in self.entities else self.suffix


def find(folder: Path) -> Found:
    """A case for each session that has an image.

    Raises:
        DataError: a session has several label maps.
    """
    subjects = [place for place in folders_in(folder) if place.name.startswith("sub-")]
    images: dict[Session, list[tuple[_Name, Path]]] = {}
    for name, path in (item for subject in subjects for item in _anatomies(subject)):
        if name.suffix not in _NO_IMAGE:
            images.setdefault(name.session, []).append((name, path))
    if not images:
        return Found(missing="sub- folders are there, an image in sub-*/anat/ is not" if subjects else "")
    return Found(tuple(_cases(folder, subjects, images)))


def _cases(
    folder: Path, subjects: Sequence[Path], images: Mapping[Session, Sequence[tuple[_Name, Path]]]
) -> Iterator[CaseFiles]:
    labels, participants = _labels(folder, subjects), _participants(folder / _PARTICIPANTS)
    sidecars = existing(folder / _PARTICIPANTS, folder / "dataset_description.json")
    for session, files in images.items():
        subject, visit = f"sub-{session[0]}", session[1]
        yield CaseFiles(
            subject if visit is None else f"{subject}_ses-{visit}",
            tuple(path for _, path in files),
            _label_of(session, labels, tuple(images), folder),
            subject,
            tuple(name.contrast for name, _ in files),
            participants.get(subject, ()),
            sidecars,
        )


def _anatomies(subject: Path) -> Iterator[tuple[_Name, Path]]:
    for place in (subject, *(inner for inner in folders_in(subject) if inner.name.startswith("ses-"))):
        for path in nifti_files(place / "anat"):
            yield _parse(path), path


def _labels(folder: Path, subjects: Sequence[Path]) -> dict[tuple[Session, str], list[Path]]:
    """Label maps by session and kind, those of derivatives that lie beside their images included."""
    derivatives = folder / "derivatives"
    pipelines = folders_in(derivatives) if derivatives.is_dir() else []
    places = [*subjects, *(pipeline / subject.name for pipeline in pipelines for subject in subjects)]
    found: dict[tuple[Session, str], list[Path]] = {}
    for place in places:
        for path in (path for path in sorted(place.rglob("*.nii*")) if not path.name.startswith(".")):
            name = _parse(path)
            if name.suffix in LABELS:
                found.setdefault((name.session, name.suffix), []).append(path)
    return found


def _label_of(
    session: Session, labels: Mapping[tuple[Session, str], Sequence[Path]], sessions: Sequence[Session], folder: Path
) -> Path | None:
    """The session's label map; one without a session is the subject's, if that has been seen once."""
    alone = sum(1 for other in sessions if other[0] == session[0]) == 1
    spoken = [session, (session[0], None)] if alone else [session]
    for kind in LABELS:
        found = [path for key in spoken for path in labels.get((key, kind), ())]
        found = list(dict.fromkeys(found))
        if len(found) > 1:
            places = " and ".join(sorted({str(path.parent.relative_to(folder)) for path in found}))
            raise DataError(
                f"a session of {folder} has {len(found)} label maps (_{kind}, in {places}); keep the one that is to be "
                "learnt, or take the others' folder out of derivatives/"
            )
        if found:
            return found[0]
    return None


def _participants(path: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    """Facts by participant; a table that is not there or not readable tells nothing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    return {row.get("participant_id") or "": tuple(_told(row)) for row in rows}


def _told(row: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    for column, value in row.items():
        if column and column.lower() in _FACTS and isinstance(value, str) and value.strip() not in ("", "n/a"):
            yield column.lower(), value.strip()


def _parse(path: Path) -> _Name:
    *parts, suffix = case_name(path).split("_")
    pairs = (part.partition("-") for part in parts)
    return _Name({key: value for key, _, value in pairs}, suffix)


LAYOUT = Layout("BIDS", "sub-X/anat/ with label maps in derivatives/", find)
