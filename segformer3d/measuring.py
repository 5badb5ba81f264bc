"""One labelled case after another, predicted and scored by a protocol; what comes of each, or why it was set aside.

A case is read once, predicted by the model and by the second model if there is one, and scored (`segformer3d.metrics`);
only one is in memory at a time. What a model's probabilities are worth is gathered as they stream by. A structure that
a case's label does not tell (`segformer3d.lacks`) has no score there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segformer3d.boxes import Place
from segformer3d.calibration import Reliability, no_voxels, reliability
from segformer3d.cases import CaseFiles
from segformer3d.errors import CaseError
from segformer3d.inference import decide, native_slabs, structure_probabilities
from segformer3d.lacks import told
from segformer3d.metrics import StructureScore, score_case
from segformer3d.model import SegFormer3D
from segformer3d.protocols import Protocol
from segformer3d.results import CaseResult, SetAside
from segformer3d.surfaces import Mask
from segformer3d.tasks import Task
from segformer3d.volumes import Volume, read_case

_UNTOLD = StructureScore(math.nan, math.nan, math.nan)
Predict = Callable[[Volume], NDArray[np.bool_]]
OnCase = Callable[[int, int], None]


@dataclass(frozen=True)
class Seen:
    """A labelled case as a protocol looks at it: the volume, the box of it that counts, and the true masks in there."""

    volume: Volume
    place: Place
    truth: Mask


Forecast = Callable[[Seen], tuple[Mask, Reliability | None]]


@dataclass(frozen=True)
class Contest:
    """Who is measured on what: the model, with the hash of its weights, and the second one by its name, if any."""

    task: Task
    protocol: Protocol
    forecast: Forecast
    against: tuple[str, Forecast] | None
    weights_sha256: str | None = None


def forecast_of(
    model: SegFormer3D, task: Task, device: torch.device, mirror: bool | None, seen: Seen
) -> tuple[Mask, Reliability]:
    """A model's masks (S, X, Y, Z) of what is seen, and what its probabilities are worth there."""
    masks, sums, done = [], no_voxels(len(task.structures)), 0
    for slab_KXYZ in native_slabs(model, task, seen.volume, device, mirror=mirror, place=seen.place):
        truth = seen.truth[:, done : done + slab_KXYZ.shape[1]]
        done += slab_KXYZ.shape[1]
        sums += reliability(structure_probabilities(slab_KXYZ, task), truth)
        masks.append(decide(slab_KXYZ, task))
    return np.concatenate(masks, axis=1), sums


def masks_of(predict: Predict, seen: Seen) -> tuple[Mask, None]:
    """The masks (S, X, Y, Z) of what is seen, by anything that predicts whole volumes; it gives no probabilities."""
    return predict(seen.volume)[:, *seen.place], None


@dataclass(frozen=True)
class Measured:
    """One case, measured: the model's result, the second model's, and what the model's probabilities are worth."""

    result: CaseResult
    other: CaseResult | None
    reliability: Reliability | None


def measure_cases(
    contest: Contest, cases: Sequence[CaseFiles], on_case: OnCase | None
) -> tuple[list[Measured], list[SetAside]]:
    """Measure every case in turn; those that cannot be used are set aside with their reason."""
    measured: list[Measured] = []
    set_aside: list[SetAside] = []
    for done, files in enumerate(cases, start=1):
        try:
            measured.append(_measure_case(contest, files))
        except CaseError as error:
            set_aside.append(SetAside(files.name, str(error)))
        if on_case is not None:
            on_case(done, len(cases))
    return measured, set_aside


def _measure_case(contest: Contest, files: CaseFiles) -> Measured:
    seen = read_labelled(files, contest)
    predicted, sums = contest.forecast(seen)
    sums = None if sums is None else sums.of(told(contest.task, files.lacks))
    result = _score(contest, files, seen, predicted)
    if contest.against is None:
        return Measured(result, None, sums)
    del predicted  # a large scan's masks need not be held twice
    return Measured(result, _score(contest, files, seen, contest.against[1](seen)[0]), sums)


def read_labelled(files: CaseFiles, contest: Contest) -> Seen:
    """Read a case and its label.

    Raises:
        CaseError: it is damaged, has no label, or the protocol's crop is not defined for it.
    """
    volume = read_case(files, contest.task)
    if volume.label is None:
        raise CaseError("the case has no label to compare with; add its label file or take it out of the list")
    place = contest.protocol.place(volume.label.shape)
    return Seen(volume, place, contest.task.structure_masks(volume.label[place]))


def _score(contest: Contest, files: CaseFiles, seen: Seen, predicted: Mask) -> CaseResult:
    spacing = seen.volume.spacing
    ml = math.prod(spacing) / 1000
    scores = score_case(predicted, seen.truth, spacing, contest.protocol.for_case(files.name))
    shown = told(contest.task, files.lacks)
    scores = tuple(score if tells else _UNTOLD for score, tells in zip(scores, shown, strict=True))
    return CaseResult(files.name, scores, _millilitres(seen.truth, ml), _millilitres(predicted, ml), files.facts)


def _millilitres(masks: Mask, voxel_ml: float) -> tuple[float, ...]:
    return tuple(int(np.count_nonzero(mask)) * voxel_ml for mask in masks)
