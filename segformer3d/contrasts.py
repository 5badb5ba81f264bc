"""Which image file is which contrast: a task's contrasts are found by name, in the task's order, whatever the files'.

Datasets spell them differently: FLAIR is `flair`, `t2f` or `FLAIR`, T1 after contrast agent `t1ce`, `t1c` or `t1gd`.
"""

import re
from pathlib import Path

from segformer3d.errors import CaseError
from segformer3d.layouts.files import CaseFiles
from segformer3d.task import Task

_SPELLINGS = {
    "flair": ("flair", "t2f", "t2flair", "flairw"),
    "t1": ("t1", "t1w", "t1n", "t1native"),
    "t1ce": ("t1ce", "t1c", "t1gd", "t1cw", "t1wce", "t1post"),
    "t2": ("t2", "t2w"),
}
_CONTRASTS = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}


def contrast(name: str) -> str:
    """The contrast that a spelling stands for; one that is not known stands for itself."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _CONTRASTS.get(plain, plain)


def images_for(files: CaseFiles, task: Task) -> tuple[Path, ...]:
    """The case's image files for a task, in the order of its contrasts.

    Where the names of both are known, they decide: a file that the task does not ask for is left out. Where none of
    them is known to both (a task's "MRI" and a file's "T1w"), files are taken in their order, and so is one 4D file.

    Raises:
        CaseError: a contrast is missing or there twice, or one of the two is CT and the other is not.
    """
    there, wanted = [contrast(name) for name in files.contrasts], [contrast(name) for name in task.modalities]
    if there in ([], wanted):
        return files.images
    if ("ct" in there) != ("ct" in wanted):
        raise CaseError(
            f"the dataset says that its images are {', '.join(files.contrasts)}, and task {task.name} takes "
            f"{', '.join(task.modalities)}; choose a task for such images"
        )
    if not set(there) & set(wanted) and (len(there) == len(wanted) or len(files.images) == 1):
        return files.images
    for name, key in zip(task.modalities, wanted, strict=True):
        if there.count(key) != 1:
            raise CaseError(_not_once(name, there.count(key), files))
    return tuple(files.images[there.index(key)] for key in wanted)


def _not_once(name: str, times: int, files: CaseFiles) -> str:
    if times:
        return f"the case has {times} images of contrast {name}; keep the one that its label was drawn on"
    return (
        f"the contrast {name} is missing, the case has {', '.join(files.contrasts)}; every case needs all of them "
        '(what no case has, dataset.json may name as "absent")'
    )
