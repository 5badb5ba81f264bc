"""One dataset divided over simulated hospitals: site folders on disk that link to the files of the original.

Three partitions, each a pure function of the case names (and intensities) and the seed:

- `iid`: the shuffled cases in parts of equal size, give or take one.
- `quantity`: the shuffled cases in parts of unequal size. Every site first gets min(4, cases // sites) cases; the rest
  is shared geometrically, the first site's share being 8 times the last one's (rounded by largest remainder).
- `intensity`: the cases sorted by the scale of their raw intensities and cut into parts of equal size, give or take
  one, as if every site had a scanner of its own. Only this one opens images.

First of all the cases with the lowest SHA-256 of their name are held out, or those that a published protocol holds out
(`segformer3d.held_out`): they are the same whatever the partition, the number of sites and the seed. Patients with
several cases are dealt like cases, by the patient's name, and keep all of theirs together. What it promises: every case
lands in exactly one place, no site is empty, no patient is in two, and the order in which cases are listed changes
nothing. Damaged cases are dealt like others; the gate of the site's data sets them aside.
"""

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError

from segformer3d.cases import CaseFiles, find_cases
from segformer3d.errors import ConfigurationError
from segformer3d.files import write_json
from segformer3d.held_out import split_off, whole_lists
from segformer3d.lacks import tells_only_lacks
from segformer3d.layouts.description import DESCRIPTION, read_description
from segformer3d.patients import patient_of
from simulations.site_folders import FederationFolders, federation_folders, link_file, write_description

PARTITIONS = ("iid", "quantity", "intensity")
HELD_OUT_SHARE = 0.2
MINIMUM_CASES = 4
LARGEST_TO_SMALLEST_SHARE = 8.0

Names = tuple[str, ...]
# What nibabel, gzip and NumPy raise on a file that is missing, cut off, overwritten, or that declares absurd sizes.
UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    HeaderTypeError,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    TypeError,
    ArithmeticError,
    MemoryError,
)


@dataclass(frozen=True)
class Split:
    """Which case is where: one tuple of names per site, and the held-out names; each sorted."""

    sites: tuple[Names, ...]
    held_out: Names


def split_cases(
    names: Sequence[str],
    intensities: Mapping[str, float | None],
    sites: int,
    seed: int,
    partition: str,
    held_out: float | Names = HELD_OUT_SHARE,
) -> Split:
    """Divide distinct case names over `sites` sites and the held-out set; a pure function.

    Args:
        names: the cases, in any order.
        intensities: what "intensity" sorts by; a case that is missing, None or not finite goes to the last site.
        sites: how many sites.
        seed: whole number of 0 or more that shuffles the cases of "iid" and "quantity".
        partition: a name of `PARTITIONS`.
        held_out: share of the cases to hold out, in (0, 1), of which at least one is; or the cases themselves.

    Raises:
        ConfigurationError: a value breaks its rule, or fewer cases are left than there are sites.
    """
    check_partition(partition)
    if sites < 1:
        raise ConfigurationError(f"a federation needs at least 1 site, got {sites}")
    if seed < 0:
        raise ConfigurationError(f"the seed of a partition must be 0 or more, got {seed}")
    outside = held_out if isinstance(held_out, tuple) else held_out_cases(names, held_out)
    inside = sorted(set(names) - set(outside))
    if len(inside) < sites:
        raise ConfigurationError(
            f"{len(names)} cases, {len(outside)} of them held out, leave {len(inside)} for {sites} sites, and every "
            f"site needs one; ask for fewer sites or add cases"
        )
    order = _by_intensity(inside, intensities) if partition == "intensity" else _shuffled(inside, seed)
    sizes = quantity_sizes(len(inside), sites) if partition == "quantity" else _equal_sizes(len(inside), sites)
    ends = np.cumsum(sizes)
    parts = [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return Split(tuple(tuple(sorted(part)) for part in parts), outside)


def held_out_cases(names: Sequence[str], share: float = HELD_OUT_SHARE) -> Names:
    """The share of the cases, at least one, whose names have the lowest SHA-256; sorted by name.

    Raises:
        ConfigurationError: the share is not in (0, 1).
    """
    if not 0 < share < 1:
        raise ConfigurationError(f"the held-out share must be between 0 and 1, both excluded, got {share}")
    count = max(1, math.floor(share * len(names) + 0.5))
    return tuple(sorted(sorted(names, key=_hash)[:count]))


def check_partition(partition: str) -> None:
    """See that there is a partition of this name.

    Raises:
        ConfigurationError: there is none; the text lists those there are.
    """
    if partition not in PARTITIONS:
        raise ConfigurationError(f"there is no partition {partition!r}; known are {', '.join(PARTITIONS)}")


def write_partition(
    source: Path,
    folder: Path,
    partition: str,
    sites: int,
    seed: int,
    held_out: float = HELD_OUT_SHARE,
    patient_pattern: str | None = None,
    *,
    task: str = "",
    leave_out_published: bool = False,
) -> FederationFolders:
    """Divide the dataset in `source` and write `site-1`, ..., `held-out` under `folder` in the layout of the source.

    Files are linked to, not copied, where the file system allows it, and keep their names. `patient_pattern` is what of
    a case's name is the patient, where the dataset does not say. What a published protocol holds out, of `task` or of
    the benchmark whose files are named like these, is held out here as well, rather than a share, or left out
    altogether where that is asked for.

    Raises:
        ConfigurationError: a value breaks its rule, or there are fewer patients than sites.
        HeldOutError: some of the cases that a published protocol holds out are there, but not all.
        DataError: the source is no dataset folder, a case does not match the pattern, or one of the folders to write is
            not empty.
    """
    check_partition(partition)
    cases = find_cases(source)
    free, published = split_off(cases, task)
    patients = _by_patient(free if leave_out_published else cases, patient_pattern)
    if published and not leave_out_published:
        outside = tuple(sorted(_by_patient(whole_lists(source, cases, task), patient_pattern)))
    else:
        outside = held_out_cases(tuple(patients), held_out)
    read = [name for name in patients if partition == "intensity" and name not in outside]
    intensities = {name: raw_intensity(patients[name][0]) for name in read}
    split = split_cases(tuple(patients), intensities, sites, seed, partition, outside)
    folders = federation_folders(folder, sites)
    described = read_description(source / DESCRIPTION) if (source / DESCRIPTION).is_file() else None
    for place, names in zip((*folders.sites, folders.held_out), (*split.sites, split.held_out), strict=True):
        _write_site(place, source, {name: patients[name] for name in names}, described)
    return folders


def _by_patient(cases: Sequence[CaseFiles], pattern: str | None) -> dict[str, list[CaseFiles]]:
    patients: dict[str, list[CaseFiles]] = {}
    for case in cases:
        patients.setdefault(patient_of(case, pattern), []).append(case)
    return patients


def raw_intensity(files: CaseFiles) -> float | None:
    """The scale of a raw image: the logarithm of the 99th percentile of the positive voxels of its first contrast.

    None where that cannot be told, because the file is damaged or holds no positive value.
    """
    try:
        with np.errstate(all="ignore"):
            values = _first_contrast(files.images[0])
            positive = values[np.isfinite(values) & (values > 0)]
            return float(np.log(np.percentile(positive, 99))) if positive.size else None
    except UNREADABLE:
        return None


def _first_contrast(path: Path) -> np.ndarray[Any, Any]:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj[..., 0] if len(image.shape) == 4 else image.dataobj)


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    return [names[index] for index in np.random.default_rng(seed).permutation(len(names))]


def _by_intensity(names: Sequence[str], intensities: Mapping[str, float | None]) -> list[str]:
    def scale(name: str) -> tuple[float, str]:
        value = intensities.get(name)
        return (value if value is not None and math.isfinite(value) else math.inf), name

    return sorted(names, key=scale)


def _equal_sizes(cases: int, sites: int) -> list[int]:
    return [cases // sites + (index < cases % sites) for index in range(sites)]


def quantity_sizes(cases: int, sites: int) -> list[int]:
    """Cases of each site in the "quantity" partition, largest first; `cases` must be at least `sites`."""
    minimum = min(MINIMUM_CASES, cases // sites)
    weights = LARGEST_TO_SMALLEST_SHARE ** -np.linspace(0, 1, sites)
    exact = (cases - minimum * sites) * weights / weights.sum()
    extra = np.floor(exact + 1e-9).astype(int)
    remainder = cases - minimum * sites - int(extra.sum())
    extra[np.argsort(extra - exact, kind="stable")[:remainder]] += 1
    return [int(count) + minimum for count in extra]


def _hash(name: str) -> tuple[bytes, str]:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest(), name


def _write_site(
    folder: Path, source: Path, patients: Mapping[str, Sequence[CaseFiles]], described: Mapping[str, Any] | None
) -> None:
    entries = []
    for patient, case in ((name, case) for name, cases in patients.items() for case in cases):
        images = [_link(folder, source, path) for path in case.images]
        entry: dict[str, Any] = {"image": images[0] if len(images) == 1 else images}
        for path in case.sidecars:
            _link(folder, source, path)
        entry |= {} if case.label is None else {"label": _link(folder, source, case.label)}
        entries.append(entry | ({} if patient == case.name else {"patient": patient}))
    if described is not None and tells_only_lacks(described):
        write_json(folder / DESCRIPTION, described)
    elif described is not None:
        write_description(folder, dict(described), entries)


def _link(folder: Path, source: Path, path: Path) -> str:
    """Link a file of the dataset at its place in the site folder, and say where, as `dataset.json` does."""
    if not path.is_relative_to(source) or ".." in path.relative_to(source).parts:
        return str(path.resolve())  # it lies outside the dataset, and can stay there
    place = path.relative_to(source)
    link_file(path, folder / place)
    return f"./{place.as_posix()}"
