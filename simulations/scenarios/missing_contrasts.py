"""Missing contrasts: the first site has none after contrast agent, or lacks its last; the second lacks its first.

Both say so ("absent" in their `dataset.json`, see `segformer3d.lacks`), and the model sees 0 in place of what is not
there. That is the mean of a z-scored image: the channel tells nothing, and the normalisation after the first layer
learns what it is to expect. No other site drops contrasts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from segformer3d.case_checks import for_task
from segformer3d.cases import CaseFiles, find_cases
from segformer3d.contrasts import contrast
from segformer3d.errors import CaseError, ConfigurationError
from segformer3d.layouts.description import DESCRIPTION, read_description
from segformer3d.task import Task
from simulations.scenarios.rewriting import describe, like, rewrite_images

AFTER_AGENT = "t1ce"


def check_contrasts(task: Task) -> None:
    """See that a task has contrasts to lack.

    Raises:
        ConfigurationError: it has one.
    """
    if len(task.modalities) < 2:
        raise ConfigurationError(
            f"scenario missing-contrasts needs a task of two contrasts or more, and task {task.name} has one; choose "
            "another scenario"
        )


def take_contrasts(sites: Sequence[Path], seed: int, task: Task) -> None:
    """Take a contrast from each of the first two sites. No chance is in it.

    Raises:
        DataError: an image lies outside its site's folder.
        StorageError: the disk is full or a folder cannot be written.
    """
    names = [contrast(name) for name in task.modalities]
    _take(sites[0], task, names.index(AFTER_AGENT) if AFTER_AGENT in names else len(names) - 1)
    _take(sites[1], task, 0)


def _take(site: Path, task: Task, channel: int) -> None:
    cases = find_cases(site)
    together = {path for case in cases if len(case.images) == 1 for path in case.images}
    taken = {path for case in cases for path in _file_of(case, task, channel)}

    def rewrite(_: CaseFiles, path: Path, image: nib.Nifti1Image) -> nib.Nifti1Image:
        values = np.asanyarray(image.dataobj)
        if path not in together or values.shape[3:] != (len(task.modalities),):
            return image
        return like(image, np.delete(values, channel, axis=3), image.affine)

    if together:
        rewrite_images(site, rewrite)
    for path in taken:
        path.unlink(missing_ok=True)
    described = read_description(site / DESCRIPTION) if (site / DESCRIPTION).is_file() else {}
    describe(site, {**_without(described, taken, channel, task), "absent": [task.modalities[channel]]})


def _file_of(case: CaseFiles, task: Task, channel: int) -> tuple[Path, ...]:
    """The case's file of a contrast, where it has one for each."""
    try:
        images = for_task(case, task).images
    except CaseError:
        return ()  # it will be set aside
    return images[channel : channel + 1] if len(images) == len(task.modalities) else ()


def _without(described: Mapping[str, Any], taken: set[Path], channel: int, task: Task) -> dict[str, Any]:
    """What changes in a description: the contrasts' names by number, and the files of each case."""
    changed: dict[str, Any] = {}
    for key in ("modality", "channel_names"):
        names = described.get(key)
        if isinstance(names, Mapping) and len(names) == len(task.modalities):
            left = [names[number] for number in sorted(names, key=int) if int(number) != channel]
            changed[key] = {str(number): name for number, name in enumerate(left)}
    gone = {path.name for path in taken}
    if gone and isinstance(described.get("training"), list):
        changed["training"] = [_entry_without(entry, gone) for entry in described["training"]]
    return changed


def _entry_without(entry: Mapping[str, Any], gone: set[str]) -> dict[str, Any]:
    images = entry.get("image")
    if not isinstance(images, list):
        return dict(entry)
    return {**entry, "image": [image for image in images if Path(image).name not in gone]}
