"""Label maps for images: what `segfed predict` does."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from segformer3d.cases import CaseFiles
from segformer3d.dataset import SetAside
from segformer3d.errors import CaseError, DataError
from segformer3d.files import write_atomic
from segformer3d.inference import mask_slabs, slabs_to_label
from segformer3d.model import SegFormer3D
from segformer3d.tasks import Task
from segformer3d.volumes import Volume, read_case, write_label

Slabs = Iterable[NDArray[np.bool_]]


class Named(Protocol):
    """What can be predicted. Its name becomes that of the file that is written for it."""

    @property
    def name(self) -> str:
        """Unique among the cases of one call."""


AnyCase = TypeVar("AnyCase", bound=Named)


@dataclass(frozen=True)
class Way(Generic[AnyCase]):
    """How cases of one kind are read, and what is written for them.

    Attributes:
        read: gives a case's image; raises CaseError where that is damaged.
        write: writes a file from the masks (S, n, Y, Z), slab by slab along X of the volume.
        suffix: the end of the file's name.
    """

    read: Callable[[AnyCase, Task], Volume]
    write: Callable[[Path, AnyCase, Slabs, Volume, Task], None]
    suffix: str


def read_image(case: CaseFiles, task: Task) -> Volume:
    """A case's image from its NIfTI files; its label is not looked at."""
    return read_case(replace(case, label=None, quarantined=None), task)


def write_label_map(path: Path, case: Named, slabs: Slabs, volume: Volume, task: Task) -> None:
    """A NIfTI label map, in the image's own space, orientation and spacing."""
    write_label(path, slabs_to_label(slabs, task), volume)


NIFTI = Way(read_image, write_label_map, ".nii.gz")


@dataclass(frozen=True)
class Prediction:
    """A label file that was written for a case."""

    case: str
    path: Path


def predict_cases(
    model: SegFormer3D,
    task: Task,
    cases: Sequence[AnyCase],
    out: Path,
    device: torch.device,
    on_case: Callable[[Prediction | SetAside], None],
    *,
    way: Way[AnyCase],
    mirror: bool | None = None,
) -> tuple[list[Prediction], list[SetAside]]:
    """Write a file into `out` for each case, in the image's own space, orientation and spacing.

    A damaged image is set aside with its reason; the others go on. Mirrored copies are averaged as `mirror` says;
    None is as the task says.

    Raises:
        DataError: every case was set aside.
        StorageError: a file cannot be written.
    """
    done: list[Prediction] = []
    aside: list[SetAside] = []
    for case in cases:
        result = _predict_or_set_aside(model, task, case, out, device, mirror, way)
        (done if isinstance(result, Prediction) else aside).append(result)  # type: ignore[arg-type]
        on_case(result)
    if not done:
        raise DataError(f"no image could be predicted: {aside[0].case}: {aside[0].reason}")
    return done, aside


def _predict_or_set_aside(
    model: SegFormer3D,
    task: Task,
    case: AnyCase,
    out: Path,
    device: torch.device,
    mirror: bool | None,
    way: Way[AnyCase],
) -> Prediction | SetAside:
    try:
        volume = way.read(case, task)
    except CaseError as error:
        return SetAside(case.name, str(error))
    slabs = mask_slabs(model, task, volume, device, mirror=mirror)
    path = out / f"{case.name}{way.suffix}"
    write_atomic(path, lambda temporary: way.write(temporary, case, slabs, volume, task))
    return Prediction(case.name, path)
