"""Measure a model on labelled cases: scores of every case and structure, their summary, and three pictures.

Every case is read, predicted on its own grid and scored (`segformer3d.metrics`), one in memory at a time. A damaged
case is set aside with its reason and counted, never dropped silently. Promises: the same model, cases and seed write
the same files; nothing is written outside the output folder, whose files name cases and belong to the site alone.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segformer3d.cases import CaseFiles
from segformer3d.errors import CaseError, DataError
from segformer3d.figures import overlay
from segformer3d.files import write_json, write_text
from segformer3d.inference import predict_masks
from segformer3d.metrics import EMPTY_MASK_RULES, TOLERANCE_MM, Mask, StructureScore, score_case
from segformer3d.model import SegFormer3D
from segformer3d.statistics import Summary, summarise
from segformer3d.tasks import Task
from segformer3d.volumes import Volume, read_case

METRICS = ("dice", "hd95_mm", "surface_dice")
RULES = (
    f"{EMPTY_MASK_RULES} The surface is the voxels with a 6-neighbour outside the structure; surface Dice is the share "
    f"of them, in prediction and truth, within {TOLERANCE_MM:g} mm of the other surface. HD95 is the larger of the two "
    "directed 95th percentiles. low and high bound the 95 % percentile bootstrap interval of the mean over cases."
)

Predict = Callable[[Volume], NDArray[np.bool_]]
OnCase = Callable[[int, int], None]


@dataclass(frozen=True)
class CaseResult:
    """The scores and volumes of one case, by structure, in the order of the task."""

    name: str
    scores: tuple[StructureScore, ...]
    truth_ml: tuple[float, ...]
    predicted_ml: tuple[float, ...]

    @property
    def mean_dice(self) -> float:
        """The mean Dice over the structures."""
        return math.fsum(score.dice for score in self.scores) / len(self.scores)


@dataclass(frozen=True)
class SetAside:
    """A case that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class StructureSummary:
    """One structure over all cases that were used."""

    name: str
    dice: Summary
    hd95_mm: Summary
    surface_dice: Summary


@dataclass(frozen=True)
class Evaluation:
    """The outcome over all cases.

    Attributes:
        cases: the cases that were used, in the order given.
        set_aside: those that were not.
        structures: a summary for each structure.
        mean_dice: each case's mean over the structures, summarised over the cases; its mean is the headline number.
    """

    cases: tuple[CaseResult, ...]
    set_aside: tuple[SetAside, ...]
    structures: tuple[StructureSummary, ...]
    mean_dice: Summary

    def to_json(self) -> dict[str, Any]:
        """The content of `metrics.json`: plain JSON values, null for what is undefined."""
        return {
            "cases": len(self.cases),
            "set_aside": len(self.set_aside),
            "set_aside_cases": [{"case": case.name, "reason": case.reason} for case in self.set_aside],
            "mean_dice": self.mean_dice.mean,
            "mean_dice_over_cases": self.mean_dice.to_json(),
            "classes": {s.name: {m: getattr(s, a).to_json() for m, a in _JSON_NAMES.items()} for s in self.structures},
            "overlays": {rank: case.name for rank, case in ranked(self.cases).items()},
            "rules": RULES,
        }


_JSON_NAMES = {"dice": "dice", "hd95": "hd95_mm", "surface_dice": "surface_dice"}


def evaluate(
    model: SegFormer3D,
    task: Task,
    cases: Sequence[CaseFiles],
    out: Path,
    *,
    device: torch.device,
    seed: int,
    mirror: bool | None = None,
    on_case: OnCase | None = None,
) -> Evaluation:
    """Measure a model on labelled cases and write what was found into a folder.

    Args:
        model: a model of the task.
        task: what is segmented.
        cases: labelled cases.
        out: the folder for `cases.csv`, `set_aside.csv`, `metrics.json` and `overlay-{best,median,worst}.png`.
        device: where the model predicts.
        seed: of the bootstrap.
        mirror: whether predictions for mirrored copies are averaged; None does what the task says.
        on_case: called after each case with the number done and the number of all.

    Raises:
        DataError: no case is usable.
        StorageError: the folder cannot be written.
    """
    predict = partial(predict_masks, model, task, device=device, mirror=mirror)
    return evaluate_predictor(predict, task, cases, out, seed=seed, on_case=on_case)


def evaluate_predictor(
    predict: Predict, task: Task, cases: Sequence[CaseFiles], out: Path, *, seed: int, on_case: OnCase | None = None
) -> Evaluation:
    """`evaluate` for anything that turns a volume into masks (S, X, Y, Z) on the volume's grid, the same each time.

    Raises:
        DataError: no case is usable.
        StorageError: the folder cannot be written.
    """
    results, set_aside = _measure(predict, task, cases, on_case)
    write_text(out / "set_aside.csv", _csv(("case", "reason"), ((case.name, case.reason) for case in set_aside)))
    if not results:
        raise DataError(_none_left(set_aside))
    evaluation = summarise_cases(results, set_aside, task, seed)
    write_text(out / "cases.csv", _case_table(evaluation, task))
    write_json(out / "metrics.json", evaluation.to_json())
    _draw(predict, task, cases, evaluation, out)
    return evaluation


def summarise_cases(cases: Sequence[CaseResult], set_aside: Sequence[SetAside], task: Task, seed: int) -> Evaluation:
    """Summarise the scores of cases; every summary resamples the same cases, so that they can be compared."""
    structures = []
    for index, structure in enumerate(task.structures):
        columns = ([getattr(case.scores[index], metric) for case in cases] for metric in METRICS)
        structures.append(StructureSummary(structure.name, *(summarise(column, seed) for column in columns)))
    mean_dice = summarise((case.mean_dice for case in cases), seed)
    return Evaluation(tuple(cases), tuple(set_aside), tuple(structures), mean_dice)


def ranked(cases: Sequence[CaseResult]) -> dict[str, CaseResult]:
    """The best, median and worst case by mean Dice; of two alike, the first by name ranks lower."""
    order = sorted(cases, key=lambda case: (case.mean_dice, case.name))
    return {"best": order[-1], "median": order[(len(order) - 1) // 2], "worst": order[0]}


def _measure(
    predict: Predict, task: Task, cases: Sequence[CaseFiles], on_case: OnCase | None
) -> tuple[list[CaseResult], list[SetAside]]:
    results: list[CaseResult] = []
    set_aside: list[SetAside] = []
    for done, files in enumerate(cases, start=1):
        try:
            results.append(_measure_case(predict, task, files))
        except CaseError as error:
            set_aside.append(SetAside(files.name, str(error)))
        if on_case is not None:
            on_case(done, len(cases))
    return results, set_aside


def _measure_case(predict: Predict, task: Task, files: CaseFiles) -> CaseResult:
    volume, truth = _read_labelled(files, task)
    predicted = predict(volume)
    ml = math.prod(volume.spacing) / 1000
    scores = score_case(predicted, truth, volume.spacing)
    return CaseResult(files.name, scores, _millilitres(truth, ml), _millilitres(predicted, ml))


def _read_labelled(files: CaseFiles, task: Task) -> tuple[Volume, Mask]:
    volume = read_case(files, task)
    if volume.label is None:
        raise CaseError("the case has no label to compare with; add its label file or take it out of the list")
    return volume, task.structure_masks(volume.label)


def _millilitres(masks: Mask, voxel_ml: float) -> tuple[float, ...]:
    return tuple(int(mask.sum()) * voxel_ml for mask in masks)


def _none_left(set_aside: Sequence[SetAside]) -> str:
    if not set_aside:
        return "there is no case to evaluate; name a folder with labelled cases"
    first = set_aside[0]
    return (
        f"none of the {len(set_aside)} cases can be evaluated (the first, {first.name}: {first.reason}); "
        "set_aside.csv lists every reason"
    )


def _draw(predict: Predict, task: Task, cases: Sequence[CaseFiles], evaluation: Evaluation, out: Path) -> None:
    """Read and predict the ranked cases again: cheaper than keeping every prediction until the ranks are known."""
    files = {case.name: case for case in cases}
    names = [structure.name for structure in task.structures]
    ranks = ranked(evaluation.cases)
    for case in dict.fromkeys(ranks.values()):
        volume, truth = _read_labelled(files[case.name], task)
        predicted = predict(volume)
        for rank in (rank for rank, holder in ranks.items() if holder is case):
            title = f"{rank} case, mean Dice {case.mean_dice:.3f}"
            overlay(out / f"overlay-{rank}.png", volume.image[0], truth, predicted, volume.spacing, title, names)


def _case_table(evaluation: Evaluation, task: Task) -> str:
    header = ("case", "structure", *METRICS, "truth_ml", "predicted_ml")
    rows = []
    for case in evaluation.cases:
        columns = zip(task.structures, case.scores, case.truth_ml, case.predicted_ml, strict=True)
        for structure, score, truth_ml, predicted_ml in columns:
            numbers = (score.dice, score.hd95_mm, score.surface_dice, truth_ml, predicted_ml)
            rows.append((case.name, structure.name, *(_cell(number) for number in numbers)))
    return _csv(header, rows)


def _cell(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.6f}"


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Print a line per structure and the mean, then how many cases were used and set aside."""
    table = Table("structure", title="mean over the cases")
    for name in ("Dice [95 % interval]", "HD95 (mm)", f"surface Dice ({TOLERANCE_MM:g} mm)"):
        table.add_column(name, justify="right")
    for structure in evaluation.structures:
        distance = _spoken(structure.hd95_mm, ".2f")
        table.add_row(
            escape(structure.name), _interval(structure.dice), distance, _spoken(structure.surface_dice, ".3f")
        )
    table.add_section()
    table.add_row("mean", _interval(evaluation.mean_dice), "", "")
    console.print(table)
    used = len(evaluation.cases)
    console.print(f"{used} case{'s' if used != 1 else ''} used, {len(evaluation.set_aside)} set aside", highlight=False)


def _interval(summary: Summary) -> str:
    return f"{_spoken(summary, '.3f')} [{summary.low:.3f}, {summary.high:.3f}]"


def _spoken(summary: Summary, digits: str) -> str:
    excluded = f" ({summary.excluded} undefined)" if summary.excluded else ""
    return ("-" if summary.mean is None else format(summary.mean, digits)) + excluded
