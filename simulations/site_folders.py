"""Site folders of a simulated federation: `site-1`, `site-2`, ... and `held-out`, real datasets in the real layout.

A client cannot tell that it is simulated. Folders that hold something are refused rather than mixed with, and
`dataset.json` is written last, so a folder of the Decathlon layout that has one is complete.
"""

import gzip
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib

from segformer3d.errors import ConfigurationError, DataError
from segformer3d.files import storage_errors, write_atomic, write_json


class FederationFolders(NamedTuple):
    """Where a simulated federation lies: its site folders in order, and the cases that no site trains on."""

    sites: tuple[Path, ...]
    held_out: Path


def federation_folders(folder: Path, sites: int) -> FederationFolders:
    """The folders of a federation of `sites` sites, all of them absent or empty so far.

    Raises:
        ConfigurationError: fewer than 1 site.
        DataError: one of the folders holds something.
    """
    if sites < 1:
        raise ConfigurationError(f"a federation needs at least 1 site, got {sites}")
    folders = FederationFolders(tuple(folder / f"site-{index}" for index in range(1, sites + 1)), folder / "held-out")
    for place in (*folders.sites, folders.held_out):
        require_empty(place)
    return folders


def require_empty(folder: Path) -> None:
    """See that a site folder can be written here without mixing its cases with others.

    Raises:
        DataError: the folder holds something, or a file has its name.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder; remove it or choose another folder for the sites")


def write_image(path: Path, image: nib.Nifti1Image) -> None:
    """Write a .nii, or a .nii.gz without name and time in its gzip header: the same image gives the same bytes.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = image.to_bytes()
        path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0) if path.suffix == ".gz" else content)


def link_file(source: Path, place: Path) -> None:
    """Make `source` appear at `place`: by an absolute symbolic link, or a copy where links are not possible.

    A source that is missing stays missing: the site's data gate sets its case aside.

    Raises:
        StorageError: neither a link nor a copy can be written.
    """
    if not source.exists() or place.exists():  # two cases may share a file
        return
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(source.resolve())
    except (OSError, NotImplementedError):
        write_atomic(place, lambda temporary: shutil.copyfile(source, temporary))


def write_description(folder: Path, described: dict[str, Any], training: list[dict[str, Any]]) -> None:
    """Write `dataset.json`: `described` (name, modality, labels, ...) with these training entries and no others.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    cases = {"numTraining": len(training), "numTest": 0, "training": training, "test": []}
    write_json(folder / "dataset.json", {**described, **cases})
