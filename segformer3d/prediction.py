"""Label maps for images: what `segfed predict` does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from segformer3d.cases import CaseFiles
from segformer3d.dataset import SetAside
from segformer3d.errors import CaseError, DataError
from segformer3d.files import write_atomic
from segformer3d.inference import predict_label
from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task
from segformer3d.volumes import read_case, write_label


@dataclass(frozen=True)
class Prediction:
    """A label file that was written for a case."""

    case: str
    path: Path


def predict_cases(
    model: SegFormer3D,
    task: Task,
    cases: Sequence[CaseFiles],
    out: Path,
    device: torch.device,
    on_case: Callable[[Prediction | SetAside], None],
    *,
    mirror: bool | None = None,
) -> tuple[list[Prediction], list[SetAside]]:
    """Write `NAME.nii.gz` into `out` for each case, in the image's own space, orientation and spacing.

    A damaged image is set aside with its reason; the others go on. Mirrored copies are averaged as `mirror` says;
    None is as the task says.

    Raises:
        DataError: every case was set aside.
        StorageError: a label cannot be written.
    """
    done: list[Prediction] = []
    aside: list[SetAside] = []
    for files in cases:
        result = _predict_or_set_aside(model, task, files, out, device, mirror)
        (done if isinstance(result, Prediction) else aside).append(result)  # type: ignore[arg-type]
        on_case(result)
    if not done:
        raise DataError(f"no image could be predicted: {aside[0].case}: {aside[0].reason}")
    return done, aside


def _predict_or_set_aside(
    model: SegFormer3D, task: Task, files: CaseFiles, out: Path, device: torch.device, mirror: bool | None
) -> Prediction | SetAside:
    try:
        volume = read_case(replace(files, label=None), task)
    except CaseError as error:
        return SetAside(files.name, str(error))
    label = predict_label(model, task, volume, device, mirror=mirror)
    path = out / f"{files.name}.nii.gz"
    write_atomic(path, lambda temporary: write_label(temporary, label, volume))
    return Prediction(files.name, path)
