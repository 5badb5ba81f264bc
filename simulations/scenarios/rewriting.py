"""Writing some of a site's files anew: in place of the links that the partition made, never through them.

A file that cannot be read is left to the gate of the site's data, which sets its case aside.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from segformer3d.cases import CaseFiles, find_cases
from segformer3d.errors import DataError
from segformer3d.files import write_json
from segformer3d.layouts.description import DESCRIPTION, read_description
from simulations.partitions import UNREADABLE
from simulations.site_folders import write_image

Rewrite = Callable[[CaseFiles, Path, nib.Nifti1Image], nib.Nifti1Image]


def rewrite_images(site: Path, rewrite: Rewrite) -> None:
    """Write every image file of a site anew; `rewrite` gets its case, its path and what it holds.

    Raises:
        DataError: a file lies outside the site's folder.
        StorageError: the disk is full or the folder cannot be written.
    """
    _rewrite(site, {path: case for case in find_cases(site) for path in case.images}, rewrite)


def rewrite_labels(site: Path, rewrite: Rewrite) -> None:
    """Write every label file of a site anew; see `rewrite_images`."""
    _rewrite(site, {case.label: case for case in find_cases(site) if case.label is not None}, rewrite)


def relabel(site: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    """Replace the label values (X, Y, Z) of every case of a site, whose files keep their grid and number type."""

    def rewrite(_: CaseFiles, __: Path, image: nib.Nifti1Image) -> nib.Nifti1Image:
        values = np.asanyarray(image.dataobj)
        return like(image, change(values).astype(values.dtype), image.affine)

    rewrite_labels(site, rewrite)


def like(image: nib.Nifti1Image, values: np.ndarray[Any, Any], affine: np.ndarray[Any, Any]) -> nib.Nifti1Image:
    """An image of these values on this grid, with the other facts of a header."""
    made = nib.Nifti1Image(values, affine, image.header)
    made.set_data_dtype(values.dtype)
    return made


def describe(site: Path, told: Mapping[str, Any]) -> None:
    """Let the `dataset.json` of a site tell something more; where there is none, it tells nothing else.

    Raises:
        StorageError: it cannot be written.
    """
    path = site / DESCRIPTION
    described = read_description(path) if path.is_file() else {}
    write_json(path, {**described, **told})


def generator_of(seed: int, site: int, name: str) -> np.random.Generator:
    """Random numbers of one case or file of a site, whatever else there is."""
    own = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return np.random.default_rng([seed, site, own])


def _rewrite(site: Path, files: Mapping[Path, CaseFiles], rewrite: Rewrite) -> None:
    for path, case in files.items():
        if not path.is_relative_to(site) or ".." in path.relative_to(site).parts:
            raise DataError(f"{path} lies outside the dataset, so a scenario cannot change it; move it into the folder")
        image = _read(path)
        if image is not None:
            changed = rewrite(case, path, image)
            path.unlink()  # a link to the dataset's own file
            write_image(path, changed)


def _read(path: Path) -> nib.Nifti1Image | None:
    """The image with its values in memory, or None where it cannot be read."""
    try:
        image: Any = nib.load(path)
        values = np.asanyarray(image.dataobj)
    except UNREADABLE:
        return None
    if values.ndim not in (3, 4) or values.dtype.names is not None:
        return None
    return like(image, values, image.affine)
