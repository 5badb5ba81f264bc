"""A site's data: every case read, checked, preprocessed and kept in a disk cache; damaged ones set aside and counted.

The cache is content-addressed: an entry's key covers the bytes of the case's files and every setting of the task that
changes the result, so that neither an edited scan nor an edited task can ever meet a stale entry. A small ticket beside
it remembers which file sizes and times led to which key, so that a start does not hash gigabytes again.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segformer3d.boxes import nonzero_box
from segformer3d.case_checks import for_task
from segformer3d.cases import CaseFiles, find_cases
from segformer3d.errors import CaseError, DataError
from segformer3d.files import Buffer, write_json, write_parts
from segformer3d.held_out import training_cases
from segformer3d.intensity import scale_contrasts
from segformer3d.lacks import NOTHING, Lacks, present_channels
from segformer3d.patients import patient_of, with_patients
from segformer3d.processes import map_cases
from segformer3d.quarantine import with_quarantine
from segformer3d.tasks import Task
from segformer3d.volumes import (
    read_stored,
    resample_image,
    resample_label,
    size_on_grid,
    spacing_of,
)

# Part of every key: raise it when preprocessing changes what it computes.
PREPARATION_VERSION = 3
# Voxels of each structure that are remembered, to centre training patches on.
REMEMBERED_VOXELS = 2000
DEFAULT_VALIDATION_SHARE = 0.1

_FILES = ("image.npy", "label.npy", "voxels.npy")
# The settings of a task that decide what preprocessing computes, or refuses.
_KEY_SETTINGS = ("modalities", "structures", "label_values", "spacing", "intensity", "window")


@dataclass(frozen=True)
class PreparedCase:
    """A preprocessed case in the cache. Its arrays are memory-mapped: only what is touched is read.

    Attributes:
        name: the case's name at the site; it never travels.
        folder: its cache entry.
        source: SHA-256 of the contents of its files, whatever they are called.
        patient: whose it is, where the dataset says so.
        lacks: what its image and label lack, where the dataset says so.
    """

    name: str
    folder: Path
    source: str
    patient: str | None = None
    lacks: Lacks = NOTHING

    def image(self) -> NDArray[np.float32]:
        """(C, X, Y, Z) float32 on the task's grid, scaled."""
        return _mapped(self.folder / "image.npy")

    def label(self) -> NDArray[np.int16]:
        """(X, Y, Z) int16 label values on the task's grid."""
        return _mapped(self.folder / "label.npy")

    def voxels(self) -> NDArray[np.int32]:
        """(n, 4): some voxels of every structure that the case has, as (structure number, x, y, z)."""
        return _mapped(self.folder / "voxels.npy")


@dataclass(frozen=True)
class SetAside:
    """A case that is not used, and why. Both stay at the site."""

    case: str
    reason: str


OnCase = Callable[[PreparedCase | SetAside], object]
# Cases, read or not.
Case = TypeVar("Case", PreparedCase, CaseFiles)


@dataclass(frozen=True)
class SiteData:
    """What a site can train and validate on, what was set aside, and how many published cases were left out."""

    train: tuple[PreparedCase, ...]
    validation: tuple[PreparedCase, ...]
    set_aside: tuple[SetAside, ...]
    left_out: int = 0

    def describe(self) -> str:
        """For people: "48 used, 2 set aside"."""
        left_out = f", {self.left_out} of the published protocol left out" if self.left_out else ""
        return f"{len(self.train) + len(self.validation)} used, {len(self.set_aside)} set aside{left_out}"


def prepare(
    folder: Path,
    task: Task,
    cache: Path,
    *,
    validation_share: float = DEFAULT_VALIDATION_SHARE,
    workers: int = 1,
    leave_out_published: bool = False,
    quarantine: Path | None = None,
    patient_pattern: str | None = None,
) -> SiteData:
    """Prepare every case of a dataset folder, to train on them. What is quarantined is set aside.

    Args:
        folder: a dataset in a layout that `find_cases` knows.
        task: what is segmented in what.
        cache: where preprocessed cases are kept.
        validation_share: share of the patients kept from training, in [0, 1); see `split`.
        workers: processes that read cases at the same time.
        leave_out_published: whether to leave out the held-out cases of published protocols.
        quarantine: a list of cases that are not used, beside the one in the folder.
        patient_pattern: what of a case's name is the patient, where the dataset does not say.

    Raises:
        HeldOutError: there are such cases, and they are not left out.
        DataError: the folder is no dataset, the list cannot be read, a name does not match the pattern, or no usable
            case is left to train on.
        StorageError: the cache cannot be written.
    """
    found = with_patients(with_quarantine(find_cases(folder), quarantine), patient_pattern)
    files = training_cases(folder, found, task.name, leave_out=leave_out_published)
    data = prepare_cases(files, task, cache, validation_share=validation_share, workers=workers)
    if not data.train:
        raise DataError(f"{folder} has no usable case: {_reasons(data.set_aside)}")
    return replace(data, left_out=len(found) - len(files))


def prepare_cases(
    files: Sequence[CaseFiles],
    task: Task,
    cache: Path,
    *,
    validation_share: float = DEFAULT_VALIDATION_SHARE,
    workers: int = 1,
    on_case: OnCase | None = None,
) -> SiteData:
    """Prepare cases, whatever for; `on_case` is told what became of each, the other arguments are those of `prepare`.

    Raises:
        StorageError: the cache cannot be written.
    """
    work = partial(_prepare_or_set_aside, task=task, cache=cache)
    results = map_cases(work, files, workers, on_case)
    cases = [result for result in results if isinstance(result, PreparedCase)]
    set_aside = tuple(result for result in results if isinstance(result, SetAside))
    train, validation = split(cases, validation_share)
    return SiteData(train, validation, set_aside)


def split(cases: Sequence[Case], share: float) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Training and validation cases, decided by a hash of each patient's name, which is the case's where none is known.

    A patient keeps his or her side while others come and go, except that both sides get at least one as soon as there
    are two, and that a single one is for training.
    """
    ranked = sorted({patient_of(case) for case in cases}, key=name_fraction)
    count = sum(1 for patient in ranked if name_fraction(patient) < share)
    if share > 0 and ranked:
        count = min(max(count, 1), len(ranked) - 1)
    kept = set(ranked[:count])
    sides = ([case for case in cases if (patient_of(case) in kept) is validates] for validates in (False, True))
    train, validation = (_by_name(side) for side in sides)
    return train, validation


def _by_name(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.name))


def name_fraction(name: str) -> float:
    """A name's fixed place in [0, 1): the first 8 bytes of a SHA-256.

    The salt keeps it independent of other choices by name: whoever held out the cases with the lowest plain hashes
    would else leave none of those that are validated with.
    """
    return int.from_bytes(hashlib.sha256(f"validation/{name}".encode()).digest()[:8], "big") / 2**64


def _reasons(set_aside: Iterable[SetAside]) -> str:
    reasons = [item.reason for item in set_aside]
    if not reasons:
        return "all are held-out cases of the published protocol"
    return f"all {len(reasons)} were set aside, the first because {reasons[0]}"


def _prepare_or_set_aside(files: CaseFiles, *, task: Task, cache: Path) -> PreparedCase | SetAside:
    try:
        return prepare_case(files, task, cache)
    except CaseError as error:
        return SetAside(files.name, str(error))


def prepare_case(files: CaseFiles, task: Task, cache: Path) -> PreparedCase:
    """Preprocess one labelled case, or find it in the cache.

    Raises:
        CaseError: the case is damaged, quarantined, or has no label.
        StorageError: the cache cannot be written.
    """
    if files.label is None:
        raise CaseError("the case has no label, so nothing can be learnt from it")
    files = for_task(files, task)  # which images, and in which order, is part of the key
    known = _known(files, task, cache)
    if known is None:
        contents = _contents(files)
        known = _digest(contents, _settings(files, task)), hashlib.sha256(contents.encode()).hexdigest()
        if not _complete(cache / "cases" / known[0]):
            _fill(cache / "cases" / known[0], files, task)
        write_json(_ticket(files, task, cache), {"entry": known[0], "source": known[1]})
    return PreparedCase(files.name, cache / "cases" / known[0], known[1], files.patient, files.lacks)


def is_prepared(files: CaseFiles, task: Task, cache: Path) -> bool:
    """Whether a case is in the cache already, as its files are now.

    Raises:
        CaseError: the case cannot be used for the task.
    """
    return _known(for_task(files, task), task, cache) is not None


def _known(files: CaseFiles, task: Task, cache: Path) -> tuple[str, str] | None:
    """Entry and source of a case that is in the cache."""
    known = _read_ticket(_ticket(files, task, cache))
    return known if known is not None and _complete(cache / "cases" / known[0]) else None


def _ticket(files: CaseFiles, task: Task, cache: Path) -> Path:
    return cache / "tickets" / f"{_digest(_stamp(files), _settings(files, task))}.json"


def _fill(entry: Path, files: CaseFiles, task: Task) -> None:
    stored = read_stored(files, task)
    size = size_on_grid(stored.shape, spacing_of(stored.affine), task)
    image = resample_image(scale_contrasts(stored.channels, present_channels(task, files.lacks), task), size)
    assert stored.label is not None, "prepare_case refused cases without a label"
    label = resample_label(np.ascontiguousarray(stored.label, dtype=np.int16), size)
    arrays: tuple[NDArray[Any], ...] = (image, label, _remember(label, task))
    for name, array in zip(_FILES, arrays, strict=True):
        write_parts(entry / name, _npy(array))


def _remember(label: NDArray[np.int16], task: Task) -> NDArray[np.int32]:
    remembered, box = [], nonzero_box(label)
    corner = [part.start for part in box]
    for number, mask in enumerate(task.structure_masks(label[box])):
        voxels = np.argwhere(mask) + corner
        chosen = voxels[:: max(1, len(voxels) // REMEMBERED_VOXELS)]
        remembered.append(np.insert(chosen, 0, number, axis=1))
    return np.concatenate(remembered).astype(np.int32)


def _npy(array: NDArray[Any]) -> Iterator[Buffer]:
    """What `np.save` would write. It does not notice that the disk is full when it writes the end of an array."""
    header = io.BytesIO()
    whole = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(whole))
    yield header.getvalue()
    if whole.size:
        yield whole.data.cast("B")


def _mapped(path: Path) -> NDArray[Any]:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _complete(entry: Path) -> bool:
    return all((entry / name).is_file() for name in _FILES)


def _read_ticket(ticket: Path) -> tuple[str, str] | None:
    """Entry and source of the case's files."""
    try:
        told = json.loads(ticket.read_text(encoding="utf-8"))
        return str(told["entry"]), str(told["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _settings(files: CaseFiles, task: Task) -> str:
    kept = {name: getattr(task, name) for name in _KEY_SETTINGS}
    if files.lacks.absent:  # where the files' contrasts go
        kept["absent"] = files.lacks.absent
    return json.dumps([PREPARATION_VERSION, kept], sort_keys=True, default=asdict)


def _stamp(files: CaseFiles) -> str:
    """Paths, sizes and times: equal stamps are taken for equal contents."""
    try:
        stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files.paths]
    except OSError:
        return "missing"
    return json.dumps(stats)


def _contents(files: CaseFiles) -> str:
    try:
        return json.dumps([hashlib.sha256(path.read_bytes()).hexdigest() for path in files.paths])
    except OSError as error:
        raise CaseError(
            f"a file of the case cannot be read ({error.strerror}); restore it or its permissions"
        ) from error


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
