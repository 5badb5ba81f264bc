"""The series in folders of DICOM files: files of one Series Instance UID, wherever they lie.

Files that are no DICOM are counted. An empty, unreadable or damaged file may have been a slice, so that every series
with a file in its folder is marked. Copies of a file are left out.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segformer3d.dicom.headers import read_instance
from segformer3d.dicom.instances import Instance
from segformer3d.dicom.library import files_below, is_blank, is_dicom, name_of
from segformer3d.errors import CaseError, DataError


@dataclass(frozen=True)
class Series:
    """The files of one series.

    Attributes:
        instances: its files, one or more, by path.
        damaged_beside: damaged files in the folders where its files lie.
        conflicting: files that have the UID of another one but not its contents.
    """

    instances: tuple[Instance, ...]
    damaged_beside: int = 0
    conflicting: int = 0

    @property
    def uid(self) -> str:
        """Its Series Instance UID."""
        return self.instances[0].series


@dataclass(frozen=True)
class Found:
    """What folders hold.

    Attributes:
        series: images of any kind, by series, in the order of their first files.
        labels: segmentations and structure sets.
        files: all files that were looked at.
        not_dicom, damaged, copies: files of these kinds.
        others: DICOM objects without an image, by kind.
    """

    series: tuple[Series, ...]
    labels: tuple[Instance, ...]
    files: int
    not_dicom: int
    damaged: int
    copies: int
    others: Mapping[str, int] = field(default_factory=dict)


def find_series(paths: Sequence[Path], on_file: Callable[[int], None] = lambda count: None) -> Found:
    """Everything in these folders, or in single files.

    Args:
        paths: files, and folders that are searched to their last subfolder.
        on_file: told how many files were looked at.

    Raises:
        DataError: a path does not exist, a folder cannot be read, or there is no DICOM file at all.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"there is nothing at {path}; give a folder of DICOM files")
    sorted_out = _Sorter()
    for count, file in enumerate(dict.fromkeys(file for path in paths for file in files_below(path)), start=1):
        sorted_out.add(file)
        on_file(count)
    if not sorted_out.instances:
        damaged = sorted_out.damaged.total()
        raise DataError(
            f"{' and '.join(map(str, paths))} holds no DICOM file that can be read"
            + (f": {damaged} files are empty, damaged or without pixels; export them again" if damaged else "")
        )
    return sorted_out.found()


class _Sorter:
    """Files one after another, each to its pile."""

    def __init__(self) -> None:
        self.instances: list[Instance] = []
        self.damaged: Counter[Path] = Counter()
        self.files = self.not_dicom = 0

    def add(self, file: Path) -> None:
        self.files += 1
        if is_blank(file):
            self.damaged[file.parent] += 1
        elif not is_dicom(file):
            self.not_dicom += 1
        else:
            try:
                self.instances.append(read_instance(file))
            except CaseError:
                self.damaged[file.parent] += 1

    def found(self) -> Found:
        unique, copies, conflicting = _without_copies(self.instances)
        images = [instance for instance in unique if instance.is_image]
        rest = [instance for instance in unique if not instance.is_image and not instance.is_label]
        return Found(
            series=tuple(self._series(group, conflicting) for group in _by_series(images)),
            labels=tuple(instance for instance in unique if instance.is_label),
            files=self.files,
            not_dicom=self.not_dicom,
            damaged=self.damaged.total(),
            copies=copies,
            others=Counter(_kind(instance) for instance in rest),
        )

    def _series(self, instances: Sequence[Instance], conflicting: Counter[str]) -> Series:
        folders = {instance.path.parent for instance in instances}
        return Series(
            tuple(instances), sum(self.damaged[folder] for folder in folders), conflicting[instances[0].series]
        )


def _kind(instance: Instance) -> str:
    """What an object is, by the standard's name of its class."""
    return name_of(instance.sop_class).removesuffix(" Storage") or "of an unknown kind"


def _by_series(instances: Iterable[Instance]) -> list[list[Instance]]:
    groups: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[instance.series].append(instance)
    return list(groups.values())


def _without_copies(instances: Sequence[Instance]) -> tuple[list[Instance], int, Counter[str]]:
    """Each object once, how many copies there were, and by series how many objects are there in several versions."""
    versions: defaultdict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        versions[instance.uid].append(instance)
    different = [
        list({_digest(i.path): i for i in same}.values()) if len(same) > 1 else same for same in versions.values()
    ]
    unique = [instance for same in different for instance in same]
    return unique, len(instances) - len(unique), Counter(same[0].series for same in different if len(same) > 1)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
