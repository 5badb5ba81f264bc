"""Whether what was read from a case's files can be what the task takes: contrasts, finite voxels, CT or MRI, labels."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.benchmark_tasks import TASKS
from segformer3d.contrasts import contrast, images_for
from segformer3d.errors import CaseError
from segformer3d.layouts.files import CaseFiles
from segformer3d.task import Task

Image = NDArray[np.float32]

# Air is -1000 Hounsfield units, and scanners fill what lies outside their field of view with -1024 to -3024. An MRI has
# few negative voxels, which resampling makes, and phase images go down to -4096.
_AIR_HU = (-3100.0, -900.0)
_AIR_SHARE = 0.01


def for_task(files: CaseFiles, task: Task) -> CaseFiles:
    """A case with the images that a task takes, in the task's order.

    Raises:
        CaseError: a contrast is missing or there twice, or the label's values mean other things than the task's.
    """
    if files.label is not None and files.benchmark not in (None, task.name) and task.name in TASKS:
        raise CaseError(
            f"the files are named as those of task {files.benchmark}, whose label values mean other things than those "
            f"of task {task.name}; choose --task {files.benchmark}"
        )
    return replace(files, images=images_for(files, task), contrasts=(), benchmark=None)


def check_image(image_CXYZ: Image, task: Task) -> None:
    """See that an image is what a task takes.

    Raises:
        CaseError: the number of contrasts, a voxel, or the kind of scan is wrong.
    """
    if image_CXYZ.shape[0] != len(task.modalities):
        raise CaseError(
            f"the image has {image_CXYZ.shape[0]} contrasts; task {task.name} takes {len(task.modalities)} "
            f"({', '.join(task.modalities)})"
        )
    finite = np.isfinite(image_CXYZ)
    if not finite.all():
        raise CaseError(f"the image holds {int((~finite).sum())} voxels that are NaN or infinite")
    for name, channel_XYZ in zip(task.modalities, image_CXYZ, strict=True):
        if channel_XYZ.min() == channel_XYZ.max():
            raise CaseError(f"the image is empty: every voxel of contrast {name} has the same value")
        _check_kind(name, channel_XYZ, task)


def _check_kind(name: str, channel_XYZ: Image, task: Task) -> None:
    """Whether a channel can be the CT that is asked for, or the MRI."""
    if contrast(name) != "ct" and task.intensity != "window":
        low, high = _AIR_HU
        if low <= channel_XYZ.min() <= high and (channel_XYZ <= high).mean() > _AIR_SHARE:
            raise CaseError(
                f"the image is a CT by its values (air at -1000 Hounsfield units), and task {task.name} takes {name}; "
                "choose a task for CT"
            )
    elif contrast(name) == "ct" and task.window is not None and task.window[0] < 0 <= channel_XYZ.min():
        raise CaseError(
            f"the image holds no negative value, so it is no CT in Hounsfield units as task {task.name} takes it; "
            "export it again with its rescale intercept, or choose another task"
        )


def check_labels(values: Iterable[Any], task: Task) -> None:
    """See that a task knows every value of a label.

    Raises:
        CaseError: it does not; the text says which built-in tasks would.
    """
    values = list(values)
    wrong = [float(v) for v in values if not np.isfinite(v) or float(v) not in task.label_values]
    if not wrong:
        return
    legal = ", ".join(str(v) for v in task.label_values)
    fit = [other.name for other in TASKS.values() if _alike(other, task) and set(values) <= set(other.label_values)]
    hint = f"; its labels are those of task {' or '.join(fit)}" if fit else ""
    raise CaseError(f"the label holds the value {wrong[0]:.10g}; task {task.name} knows {legal}{hint}")


def _alike(other: Task, task: Task) -> bool:
    """A task of the same contrasts, made-up patients aside."""
    return other.name != "phantom" and sorted(map(contrast, other.modalities)) == sorted(map(contrast, task.modalities))
