"""Whether what was read from a case's files can be what the task takes: contrasts, finite voxels, CT or MRI, labels."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segformer3d.benchmark_tasks import TASKS
from segformer3d.boxes import along_memory
from segformer3d.contrasts import contrast, images_for
from segformer3d.errors import CaseError
from segformer3d.lacks import check_lacks, present_task
from segformer3d.layouts.files import CaseFiles
from segformer3d.task import Task

Channel = NDArray[Any]

# Air is -1000 Hounsfield units, and scanners fill what lies outside their field of view with -1024 to -3024. An MRI has
# few negative voxels, which resampling makes; phase images go down to -4096; one without its mean has a slope of them.
_LOWEST_HU = (-3100.0, -900.0)
_AIR_HU = (-1100.0, -900.0)
_ABOVE_AIR_HU = (-900.0, -700.0)
_AIR_SHARE = 0.01


def for_task(files: CaseFiles, task: Task) -> CaseFiles:
    """A case with the images that a task takes, in the task's order.

    Raises:
        CaseError: the case is quarantined, a contrast is missing or there twice, the label's values mean other things
            than the task's, or what the dataset says that it lacks is not of the task.
    """
    if files.quarantined is not None:
        raise CaseError(f"quarantined: {files.quarantined}")
    if files.label is not None and files.benchmark not in (None, task.name) and task.name in TASKS:
        raise CaseError(
            f"the files are named as those of task {files.benchmark}, whose label values mean other things than those "
            f"of task {task.name}; choose --task {files.benchmark}"
        )
    check_lacks(files.lacks, task)
    images = images_for(files, present_task(task, files.lacks))
    return replace(files, images=images, contrasts=(), benchmark=None)


def check_image(channels: Sequence[Channel] | Channel, task: Task) -> tuple[tuple[float, float], ...]:
    """See that an image is what a task takes.

    Args:
        channels: its contrasts, each (X, Y, Z), of whatever number type.
        task: what takes it.

    Returns:
        The lowest and the highest value of each contrast.

    Raises:
        CaseError: the number of contrasts, a voxel, or the kind of scan is wrong.
    """
    if len(channels) != len(task.modalities):
        raise CaseError(
            f"the image has {len(channels)} contrasts; task {task.name} takes {len(task.modalities)} "
            f"({', '.join(task.modalities)})"
        )
    extremes = _extremes([along_memory(channel) for channel in channels])
    for name, channel, (low, high) in zip(task.modalities, channels, extremes, strict=True):
        if low == high:
            raise CaseError(f"the image is empty: every voxel of contrast {name} has the same value")
        _check_kind(name, channel, low, task)
    return extremes


def _extremes(channels: Sequence[Channel]) -> tuple[tuple[float, float], ...]:
    """As float32, which the model takes. NaN is the lowest of whatever holds it, so that all is known to be finite."""
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        extremes = [(np.float32(channel.min()), np.float32(channel.max())) for channel in channels]
        if not np.isfinite(extremes).all():
            bad = sum(int((~np.isfinite(channel.astype(np.float32))).sum()) for channel in channels)
            raise CaseError(f"the image holds {bad} voxels that are NaN or infinite")
    return tuple((float(low), float(high)) for low, high in extremes)


def _check_kind(name: str, channel: Channel, lowest: float, task: Task) -> None:
    """Whether a channel can be the CT that is asked for, or the MRI."""
    if contrast(name) != "ct" and task.intensity != "window":
        if _LOWEST_HU[0] <= lowest <= _LOWEST_HU[1] and _has_air(channel, lowest):
            raise CaseError(
                f"the image is a CT by its values (air at -1000 Hounsfield units), and task {task.name} takes {name}; "
                "choose a task for CT"
            )
    elif contrast(name) == "ct" and task.window is not None and task.window[0] < 0 <= lowest:
        raise CaseError(
            f"the image holds no negative value, so it is no CT in Hounsfield units as task {task.name} takes it; "
            "export it again with its rescale intercept, or choose another task"
        )


def _has_air(channel: Channel, lowest: float) -> bool:
    """Whether low values pile up as the air of a CT does: around -1000, or at the whole number that fills the outside.

    A slope of low values is no pile, nor is a background of one broken number, which is zero less an image's mean.
    """
    outside = int((channel == lowest).sum())
    air = _count(channel, _AIR_HU) - (outside if lowest >= _AIR_HU[0] else 0)
    pile = air + (outside if lowest.is_integer() else 0)
    return pile > max(_AIR_SHARE * channel.size, 2 * _count(channel, _ABOVE_AIR_HU))


def _count(channel: Channel, between: tuple[float, float]) -> int:
    return int(((channel >= between[0]) & (channel <= between[1])).sum())


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
