"""Measure a model on labelled cases by a protocol: scores of every case and structure, their summary, some pictures.

A second model, if there is one, predicts the same cases in the same go. A damaged case is set aside with its reason and
counted, never dropped silently. Promises: the same models, cases and seed write the same files; nothing is written
outside the output folder, whose files name cases and belong to the site alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Literal

import torch

from segformer3d.calibration import calibrate
from segformer3d.cases import CaseFiles
from segformer3d.checkpoint import weights_sha256
from segformer3d.comparability import published_part
from segformer3d.errors import ConfigurationError, DataError
from segformer3d.figures import overlay
from segformer3d.files import write_json, write_text
from segformer3d.measuring import (
    Contest,
    Measured,
    OnCase,
    Predict,
    forecast_of,
    masks_of,
    measure_cases,
    read_labelled,
)
from segformer3d.model import SegFormer3D
from segformer3d.paired import RULES, paired_differences
from segformer3d.protocols import Protocol, choose_protocol
from segformer3d.published_scores import published_rows
from segformer3d.results import CaseResult, Comparison, Evaluation, SetAside, StructureSummary, ranked, spoken_rank
from segformer3d.score_tables import case_table, set_aside_table
from segformer3d.statistics import Summary, summarise
from segformer3d.strata import stratify, ungrouped
from segformer3d.tasks import Task

COMPARISON_FILES = ("cases_against.csv", "comparison.json")


@dataclass(frozen=True)
class Rival:
    """A second model to compare with: what it is called, and the task that it was trained for."""

    name: str
    model: SegFormer3D
    task: Task


def evaluate(
    model: SegFormer3D,
    task: Task,
    cases: Sequence[CaseFiles],
    out: Path,
    *,
    device: torch.device,
    seed: int,
    mirror: bool | None = None,
    protocol: Protocol | None = None,
    against: Rival | None = None,
    on_case: OnCase | None = None,
    pictures: bool = True,
) -> Evaluation:
    """Measure a model on labelled cases and write what was found into a folder.

    Args:
        model: a model of the task.
        task: what is segmented.
        cases: labelled cases.
        out: the folder for `cases.csv`, `set_aside.csv`, `metrics.json` and an `overlay-NAME.png` for each case of
            `segformer3d.results.ranked`, and with a second model `cases_against.csv` and `comparison.json`.
        device: where the models predict.
        seed: of the bootstrap.
        mirror: whether predictions for mirrored copies are averaged; None does what each model's task says.
        protocol: how to measure; None is the task's default.
        against: a second model of the same task.
        on_case: called after each case with the number done and the number of all.
        pictures: whether to draw the overlays, which predicts the ranked cases once more.

    Raises:
        ConfigurationError: the second model is of another task.
        DataError: no case is usable.
        StorageError: the folder cannot be written.
    """
    protocol = protocol or choose_protocol(task.name)
    forecast = partial(forecast_of, model, task, device, mirror)
    rival = None
    if against is not None:
        check_comparable(task, against)
        rival = (against.name, partial(forecast_of, against.model, against.task, device, mirror))
    contest = Contest(task, protocol, forecast, rival, weights_sha256(model.state_dict()))
    return _evaluate(contest, cases, out, seed, on_case, pictures=pictures)


def evaluate_predictor(
    predict: Predict,
    task: Task,
    cases: Sequence[CaseFiles],
    out: Path,
    *,
    seed: int,
    protocol: Protocol | None = None,
    against: tuple[str, Predict] | None = None,
    on_case: OnCase | None = None,
) -> Evaluation:
    """`evaluate` for anything that turns a volume into masks (S, X, Y, Z) on the volume's grid, the same each time.

    Raises:
        DataError: no case is usable.
        StorageError: the folder cannot be written.
    """
    protocol = protocol or choose_protocol(task.name)
    rival = None if against is None else (against[0], partial(masks_of, against[1]))
    return _evaluate(Contest(task, protocol, partial(masks_of, predict), rival), cases, out, seed, on_case)


def check_comparable(task: Task, rival: Rival) -> None:
    """Check that a second model segments the same in the same.

    Raises:
        ConfigurationError: it does not.
    """
    facts = ("name", "modalities", "structures", "label_values")
    if any(getattr(task, fact) != getattr(rival.task, fact) for fact in facts):
        raise ConfigurationError(
            f"{rival.name} was trained for task {rival.task.name}, and not for the {task.name} of the first model "
            "(contrasts, structures and label values must be the same); only models of one task can be compared"
        )


def summarise_cases(
    cases: Sequence[CaseResult], task: Task, protocol: Protocol, seed: int
) -> tuple[tuple[StructureSummary, ...], Summary]:
    """Summarise the scores of cases; every summary resamples the same cases, so that they can be compared."""
    structures = []
    for index, structure in enumerate(task.structures):
        columns = {metric: [getattr(case.scores[index], metric) for case in cases] for metric in protocol.metrics}
        summaries = {metric: summarise(column, seed) for metric, column in columns.items()}
        structures.append(StructureSummary(structure.name, **summaries))
    return tuple(structures), summarise((case.mean_dice for case in cases), seed)


def _evaluate(
    contest: Contest,
    cases: Sequence[CaseFiles],
    out: Path,
    seed: int,
    on_case: OnCase | None,
    *,
    pictures: bool = True,
) -> Evaluation:
    measured, set_aside = measure_cases(contest, cases, on_case)
    write_text(out / "set_aside.csv", set_aside_table(set_aside))
    if not measured:
        raise DataError(_none_left(set_aside))
    names = {case.result.name for case in measured}
    part = published_part([case for case in cases if case.name in names], contest.task.name)
    evaluation = replace(_summarise(contest, measured, set_aside, seed), published_cases=part)
    _write(evaluation, contest.task, out)
    if pictures:
        _draw(contest, cases, evaluation, out)
    return evaluation


def _summarise(contest: Contest, measured: Sequence[Measured], set_aside: Sequence[SetAside], seed: int) -> Evaluation:
    task, protocol = contest.task, contest.protocol
    cases, names = tuple(case.result for case in measured), [structure.name for structure in task.structures]
    structures, mean_dice = summarise_cases(cases, task, protocol, seed)
    known = [case.reliability for case in measured if case.reliability is not None]
    return Evaluation(
        task.name,
        protocol,
        cases,
        tuple(set_aside),
        structures,
        mean_dice,
        strata=stratify(cases, names, seed),
        ungrouped=ungrouped(cases),
        calibration=calibrate(names, reduce(add, known)) if known else (),
        published=published_rows(task.name),
        weights_sha256=contest.weights_sha256,
        comparison=_compare(contest, measured, seed),
    )


def _compare(contest: Contest, measured: Sequence[Measured], seed: int) -> Comparison | None:
    others = tuple(case.other for case in measured if case.other is not None)
    if contest.against is None:
        return None
    names = [structure.name for structure in contest.task.structures]
    structures, mean_dice = summarise_cases(others, contest.task, contest.protocol, seed)
    differences = paired_differences([case.result for case in measured], others, names, contest.protocol, seed)
    return Comparison(contest.against[0], others, structures, mean_dice, differences, RULES)


def _write(evaluation: Evaluation, task: Task, out: Path) -> None:
    names = [structure.name for structure in task.structures]
    write_text(out / "cases.csv", case_table(evaluation.cases, names, evaluation.protocol))
    write_json(out / "metrics.json", evaluation.to_json())
    for name in COMPARISON_FILES:  # those of an earlier evaluation into the same folder
        (out / name).unlink(missing_ok=True)
    if evaluation.comparison is not None:
        write_text(out / COMPARISON_FILES[0], case_table(evaluation.comparison.cases, names, evaluation.protocol))
        write_json(out / COMPARISON_FILES[1], evaluation.comparison.to_json())


def _none_left(set_aside: Sequence[SetAside]) -> str:
    if not set_aside:
        return "there is no case to evaluate; name a folder with labelled cases"
    first = set_aside[0]
    return (
        f"none of the {len(set_aside)} cases can be evaluated (the first, {first.name}: {first.reason}); "
        "set_aside.csv lists every reason"
    )


def _draw(contest: Contest, cases: Sequence[CaseFiles], evaluation: Evaluation, out: Path) -> None:
    """Read and predict the ranked cases again: cheaper than keeping every prediction until the ranks are known."""
    files = {case.name: case for case in cases}
    names = [structure.name for structure in contest.task.structures]
    ranks = ranked(evaluation.cases)
    for earlier in out.glob("overlay-*.png"):  # an evaluation of more cases into the same folder
        earlier.unlink()
    for case in dict.fromkeys(ranks.values()):
        seen = read_labelled(files[case.name], contest)
        image, (predicted, _) = seen.volume.image[0][seen.place], contest.forecast(seen)
        for rank in (rank for rank, holder in ranks.items() if holder is case):
            title = f"{spoken_rank(rank)} case, mean Dice {case.mean_dice:.3f}"
            at: Literal["structure", "error"] = "error" if rank.startswith("worst") else "structure"
            overlay(out / f"overlay-{rank}.png", image, seen.truth, predicted, seen.volume.spacing, title, names, at)
